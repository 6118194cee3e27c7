"""The application: command line, device runs, traces. Imports everything below."""
