"""The whole system with nothing else installed: synthetic cameras, the shipped model, a Redis."""
