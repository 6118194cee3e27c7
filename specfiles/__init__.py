"""Strict reading and safe writing of the files that users share.

Device, model, workload and run files come from anywhere, so everything that reads one goes through
here: bounded size, safe YAML and JSON only, unknown keys refused, and one clear sentence on failure.
This is the bottom layer: it imports nothing else of the project.
"""

from specfiles.errors import InputError

__all__ = ["InputError"]
