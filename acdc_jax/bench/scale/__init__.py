"""`acdc bench scale`: what more devices are worth, for a whole generation and for its parts."""

from acdc_jax.bench.scale.command import main

__all__ = ["main"]
