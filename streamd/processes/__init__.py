"""What processes of the service are told at their start, and tell each other."""
