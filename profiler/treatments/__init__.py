"""Techniques run on the device at hand: the same step without and with one, in turn."""
