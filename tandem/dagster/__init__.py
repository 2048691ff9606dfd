"""Dagster over Tandem: names, wires, reports, and decides when; how is in the rooms below."""
