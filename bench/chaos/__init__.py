"""The whole daemon under faults drawn at random; see __main__.py."""
