"""Measurements of this project and its peers: `python -m benchmarks`, `.profile_step`, `.report`."""
