"""Benchmarks through EleutherAI's lm-evaluation-harness, with this project's decoder.

Nothing else imports this package: the harness is an extra.
"""
