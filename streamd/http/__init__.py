"""The HTTP side of the supervisor: metrics, health, the API."""
