"""Every claim of speed with its command, every peer measured in the same run: `python -m benchmarks --help`."""
