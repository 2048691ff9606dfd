"""The example's service."""
