"""Which collectives are compared on benchmarks, and which models that takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from acdc_jax.evaluation.task_force import top_fitness
from acdc_jax.evolution.coverage import greedy
from acdc_jax.evolution.skills import SkillMatrix, take

COLLECTIVES = ("task_force", "seeds", "samples", "random")


@dataclass(frozen=True)
class Sampled:
    """The n-th model that answers like a member, but draws its answers at a temperature."""

    member: str
    number: int


@dataclass(frozen=True)
class Collective:
    """Models that are scored together.

    Attributes:
        name: as in the run's results: `evolved`, `seeds`, `samples_best_seed`, `random_members`.
        draws: the models, by rank; several collectives of one size where they are random.
    """

    name: str
    draws: tuple[tuple[str, ...], ...]

    @property
    def n(self) -> int:
        """How many models it has."""
        return len(self.draws[0])


@dataclass(frozen=True)
class Plan:
    """What is evaluated.

    Attributes:
        collectives: what is scored.
        sampled: name → whose samples a model is; all other names are members.
        by_generation: generation → the task force that its archive would have been.
    """

    collectives: tuple[Collective, ...]
    sampled: Mapping[str, Sampled]
    by_generation: Mapping[int, tuple[str, ...]]

    @property
    def models(self) -> list[str]:
        """Every model, once; those that matter most first."""
        named = [m for collective in self.collectives for draw in collective.draws for m in draw]
        later = [model for force in self.by_generation.values() for model in force]
        return list(dict.fromkeys([*named, *later]))


def compare(
    forces: Mapping[int, Sequence[str]],
    skills: SkillMatrix,
    seeds: Sequence[str],
    archive: Sequence[str],
    archives: Mapping[int, SkillMatrix],
    *,
    wanted: Sequence[str] = COLLECTIVES,
    random_draws: int = 1,
    prng_seed: int = 0,
) -> Plan:
    """The task forces beside their controls, everything chosen on the pool's tasks alone.

    Args:
        forces: size → task force.
        skills: the global skill matrix.
        seeds: ids of the seed models.
        archive: the final archive, from which members are drawn at random.
        archives: skills of each generation's archive on its own active tasks; empty for no trace.
        wanted: which of `COLLECTIVES`.
        random_draws: how many random collectives of each size.
        prng_seed: of these draws, and part of the samples' names.
    """
    of_seeds = take(skills, seeds, skills.tasks)
    best = seeds[top_fitness(of_seeds.values, 1)[0]]
    rng = np.random.default_rng(prng_seed)
    found: dict[tuple[str, int], Collective] = {}
    sampled: dict[str, Sampled] = {}

    def add(name: str, *draws: Sequence[str]) -> None:
        collective = Collective(name, tuple(tuple(draw) for draw in draws))
        found.setdefault((name, collective.n), collective)

    for n, force in forces.items():
        if "task_force" in wanted:
            add("evolved", force)
        if "seeds" in wanted:
            add("seeds", [seeds[i] for i in greedy(of_seeds.values, n)])
        if "samples" in wanted:
            names = [f"{best}-sample-{prng_seed}-{i}" for i in range(n)]
            sampled |= {name: Sampled(best, i) for i, name in enumerate(names)}
            add("samples_best_seed", names)
        if "random" in wanted:
            size = min(n, len(archive))
            draws = [rng.choice(archive, size, replace=False) for _ in range(random_draws)]
            add("random_members", *([str(m) for m in draw] for draw in draws))
    smallest = min(forces)
    return Plan(
        tuple(found.values()),
        sampled,
        {
            generation: tuple(matrix.members[i] for i in greedy(matrix.values, smallest))
            for generation, matrix in sorted(archives.items())
        },
    )
