"""Where each family of transformers keeps the parts of a layer."""
