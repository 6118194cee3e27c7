"""Several processes that torchrun started for one run: each measures its part, the first merges them."""
