"""Benchmarks of EleutherAI's lm-evaluation-harness, with this project's decoder.

The harness is an extra. Only `options.py` and `plan.py` can be imported without it.
"""
