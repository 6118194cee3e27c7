"""Work divided by ceilings: predictions, totals, validation. Imports hwspecs and workloads only."""
