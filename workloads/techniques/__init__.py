"""Optimisation methods of LLM inference, one file each: what they remove, what they add, what they need."""
