"""`python -m profiler` is the command line."""

from profiler.cli import main

if __name__ == "__main__":  # processes spawned for collectives import this file, too
    main()
