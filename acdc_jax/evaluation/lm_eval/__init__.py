"""Benchmarks through EleutherAI's lm-evaluation-harness, with this project's decoder.

The harness is an extra: what imports it here is imported only when it is asked for.
"""
