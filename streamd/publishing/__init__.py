"""Events to Redis, and to a spool on disk while Redis is away."""
