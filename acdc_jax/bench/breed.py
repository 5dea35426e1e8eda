"""A generation's children: merged, checked and hashed, one by one and together."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from acdc_jax import flags
from acdc_jax.bench.limits import SHAPES, copy_bandwidth, peak_bytes
from acdc_jax.bench.table import Figures
from acdc_jax.bench.weights import ModelBench, random_weights, size_bytes
from acdc_jax.errors import AcdcError
from acdc_jax.evolution.merge import MergeOptions
from acdc_jax.evolution.mutate import SVDNoise
from acdc_jax.evolution.recipe import Recipe, key_words
from acdc_jax.options import option
from acdc_jax.runtime.breed import Child, breed_child, breed_children, member_id
from acdc_jax.sharding import make_mesh, pop_groups

_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class BreedBench(ModelBench):
    """Breeding"""

    children: int = option(8, "Children of the generation.", low=1)
    parents: int = option(3, "Parents of each child.", low=1)
    together: bool = option(True, "Also breed the children together: small models only.")
    svd: bool = option(True, "Also time children with the SVD mutation.")


SECTIONS = (BreedBench,)


def main(argv: Sequence[str]) -> None:
    """Run `acdc bench breed`: the time of all children, until their hashes are on the host."""
    (bench,), rest = flags.parse(SECTIONS, argv)
    flags.no_arguments(rest)
    whole = NamedSharding(pop_groups(make_mesh("pop:1", jax.devices()[:1]))[0], PartitionSpec())
    base, *parents = (
        jax.device_put(random_weights(SHAPES[bench.shape], seed), whole)
        for seed in range(bench.parents + 1)
    )
    merge_groups = dict.fromkeys(base, 0)
    moved = bench.children * (bench.parents + 2) * size_bytes(base)  # read, read, and written
    least = moved / copy_bandwidth()
    figures = Figures("what", "time", "copy of the merges", "first call", "peak memory")

    def one_by_one(recipes: Sequence[Recipe]) -> list[str]:
        return [
            breed_child(recipe, base, list(parents), merge_groups).recipe.content
            for recipe in recipes
        ]

    def together(recipes: Sequence[Recipe]) -> list[str]:
        rows: list[list[Child]] = breed_children(
            [recipes], [base], [[parents] * len(recipes)], merge_groups
        )
        return [child.recipe.content for child in rows[0]]

    def add(what: str, breed: Callable[[Sequence[Recipe]], list[str]], svd: bool) -> list[str]:
        recipes, times = _recipes(bench, svd), []
        for _ in range(1 + _REPEATS):
            start = time.perf_counter()
            hashes = breed(recipes)
            times.append(time.perf_counter() - start)
        seconds, peak = float(np.median(times[1:])), peak_bytes()
        memory = "" if peak is None else f"{peak / 1e9:.1f} GB"
        figures.add(what, f"{seconds:.3f} s", f"{least:.3f} s", f"{times[0]:.1f} s", memory)
        return hashes

    alone = add("merged, one by one", one_by_one, False)
    if bench.together and add("merged, together", together, False) != alone:
        raise AcdcError("children bred together differ from children bred one by one")
    if bench.svd:
        add("merged and SVD-mutated, one by one", one_by_one, True)
    figures.show(f"{bench.children} children of {bench.parents} {bench.shape} parents")


def _recipes(bench: BreedBench, svd: bool) -> list[Recipe]:
    rng = np.random.default_rng(0)
    return [
        Recipe(
            id=member_id(1, child),
            operator="merge",
            parents=tuple(member_id(0, parent) for parent in range(bench.parents)),
            coefficients=tuple((float(w),) for w in rng.uniform(0.2, 0.6, bench.parents)),
            groups=("all",),
            merge=MergeOptions(normalise=False),
            mutation=SVDNoise() if svd else None,
            key=key_words(jax.random.key(child)),
            generation=1,
        )
        for child in range(bench.children)
    ]
