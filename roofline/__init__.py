"""Work divided by ceilings: predictions, totals, validation. Imports hwspecs and workloads only.

From Python begin with `from roofline import api` and `help(api)`.
"""
