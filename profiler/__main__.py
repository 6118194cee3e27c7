"""`python -m profiler` is the command line."""

from profiler.cli import main

main()
