"""Sweeps: every combination of models, devices, sizes, formats and techniques, resumable, in parallel."""
