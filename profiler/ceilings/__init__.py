"""Measure a machine's ceilings into a device file: passes over probes and small models, saved at once."""
