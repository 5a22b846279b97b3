"""The supervisor: shared memory, the workers and their lives, cameras that come and go."""
