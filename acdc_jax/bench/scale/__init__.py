"""`acdc bench scale`: what more devices are worth, for a whole generation and for its parts."""

from acdc_jax.bench.scale.command import SECTIONS, main

__all__ = ["SECTIONS", "main"]
