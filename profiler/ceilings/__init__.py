"""What a machine reaches, as a device file: passes over plain ceilings and small models, kept at once."""
