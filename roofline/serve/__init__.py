"""Serving: requests that arrive over time, an engine that batches them, and what each of them waits for."""
