"""Benchmarks: each prints our figure and the device's limit, measured in the same run."""
