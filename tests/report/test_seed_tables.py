"""The tables of `acdc seeds check`."""

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from acdc_jax.evolution.task_vectors import MODULES, squared_distances
from acdc_jax.report.seed_tables import pairs_table


def test_all_modules_fit_80_characters() -> None:
    """With the widest cells: a negative cosine of every module, and a seed that is the base."""
    base = np.random.default_rng(0).normal(size=(8, 8))
    models = [jnp.asarray(model, "float32") for model in (base, 1.02 * base, 0.97 * base, base)]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(pairs_table({name: squared_distances(models) for name in MODULES}))
    rows = [line.split() for line in capture.get().splitlines()]
    assert rows[1] == ["dist.", "all", *MODULES]
    assert rows[3:] == [
        ["1-2", ".05", *["-1.0"] * 12],
        ["1-3", ".02", *["-"] * 12],
        ["2-3", ".03", *["-"] * 12],
    ]
