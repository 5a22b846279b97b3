"""From a model file to an engine: exported, built, proved, kept, loaded."""
