"""The driver: from a model to an artifact, and from an artifact to an answer."""
