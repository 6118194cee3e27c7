"""One campaign of a device: ceilings, operators of spread shapes, whole models, within a budget."""
