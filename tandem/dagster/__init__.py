"""Dagster over Tandem: what runs when, and what is shown of it."""
