"""One run by several processes of torchrun: each measures its part, the first one merges them."""
