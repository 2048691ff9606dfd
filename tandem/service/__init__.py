"""The client of a packed service: readiness, version, questions."""
