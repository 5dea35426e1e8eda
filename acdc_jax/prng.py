"""Random numbers on the host from JAX keys."""

import jax
import numpy as np


def host_rng(key: jax.Array) -> np.random.Generator:
    """Return the numpy generator that a typed PRNG key determines.

    Decisions that are drawn with it do not depend on the accelerator.
    """
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
