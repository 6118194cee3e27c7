"""Run techniques on the device: the same step without and with one, in turn."""
