"""Kernels for what XLA does not do fast enough, each with its fallback."""
