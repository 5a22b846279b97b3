"""Tools for whoever works on streamd."""
