"""Benchmarks: each prints our figure beside the device's limit, measured in the same run."""
