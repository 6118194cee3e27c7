"""Optimisation methods of LLM inference: what each removes, what it adds, what it needs."""
