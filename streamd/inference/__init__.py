"""The inference worker: slots → a batch → the engine → detections → events."""
