"""Timings beside the libraries in use today: `python -m bench`, or `make bench`, writes RESULTS.md."""
