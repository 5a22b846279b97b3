"""The ingest worker: camera → source → decoder → letterbox → a slot."""
