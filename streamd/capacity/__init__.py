"""How many cameras fit on this machine: simulated ones, more and more, until a target breaks."""
