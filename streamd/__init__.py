"""streamd: real-time multi-stream video analytics."""

__version__ = "0.1.0"
