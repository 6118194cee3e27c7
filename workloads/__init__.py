"""What a model does: configs, operators and phases, as arithmetic on sizes. Imports nothing above."""
