"""Choose the collectives of models to compare on benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from acdc_jax.evaluation.lm_eval.options import COLLECTIVES, CollectiveName
from acdc_jax.evaluation.task_force import top_fitness
from acdc_jax.evolution.coverage import greedy
from acdc_jax.evolution.skills import SkillMatrix, take


@dataclass(frozen=True)
class Sample:
    """A model that answers like a member, but draws its answers at a temperature.

    Attributes:
        member: Id of the member.
        number: Number of the sample.
    """

    member: str
    number: int


@dataclass(frozen=True)
class Collective:
    """Models that are scored together.

    Attributes:
        name: As in the run's results: `evolved`, `seeds`, `samples_best_seed`, `random_members`.
        draws: The models, by rank. Random collectives have several draws of one size.
    """

    name: str
    draws: tuple[tuple[str, ...], ...]

    @property
    def n(self) -> int:
        """Number of models."""
        return len(self.draws[0])


@dataclass(frozen=True)
class Plan:
    """What is evaluated.

    Attributes:
        collectives: The collectives that are scored.
        samples: Name → sample; all other names are ids of members.
        by_generation: Generation → the task force that its archive would have chosen.
    """

    collectives: tuple[Collective, ...]
    samples: Mapping[str, Sample]
    by_generation: Mapping[int, tuple[str, ...]]

    @property
    def models(self) -> list[str]:
        """Every model once; the most important first."""
        of_collectives = [
            m for collective in self.collectives for draw in collective.draws for m in draw
        ]
        of_generations = [model for force in self.by_generation.values() for model in force]
        return list(dict.fromkeys([*of_collectives, *of_generations]))


@dataclass(frozen=True)
class Candidates:
    """The members that collectives are chosen from.

    Attributes:
        skills: Global skill matrix.
        seeds: Ids of the seed models.
        archive: Ids of the final archive, from which members are drawn at random.
        archives: Generation → skills of its archive on the tasks that were active then; empty if
            task forces of generations are not compared.
    """

    skills: SkillMatrix
    seeds: Sequence[str]
    archive: Sequence[str]
    archives: Mapping[int, SkillMatrix]


def plan_comparison(
    forces: Mapping[int, Sequence[str]],
    candidates: Candidates,
    *,
    collectives: Sequence[CollectiveName] = COLLECTIVES,
    random_draws: int = 1,
    prng_seed: int = 0,
) -> Plan:
    """Compare task forces with controls of the same size, all chosen on the pool's tasks alone.

    Args:
        forces: Size → task force.
        candidates: The members that controls are chosen from.
        collectives: Which collectives are compared.
        random_draws: Number of random collectives of each size.
        prng_seed: Seed of these draws, and part of the names of samples.
    """
    seeds, archive = candidates.seeds, candidates.archive
    seed_skills = take(candidates.skills, seeds, candidates.skills.tasks).values
    best = seeds[top_fitness(seed_skills, 1)[0]]
    rng = np.random.default_rng(prng_seed)
    planned_sets: dict[tuple[str, int], Collective] = {}
    samples: dict[str, Sample] = {}

    def add(name: str, *draws: Sequence[str]) -> None:
        collective = Collective(name, tuple(tuple(draw) for draw in draws))
        planned_sets.setdefault((name, collective.n), collective)

    for n, force in forces.items():
        if "task_force" in collectives:
            add("evolved", force)
        if "seeds" in collectives:
            add("seeds", [seeds[i] for i in greedy(seed_skills, n)])
        if "samples" in collectives:
            names = [f"{best}-sample-{prng_seed}-{i}" for i in range(n)]
            samples |= {name: Sample(best, i) for i, name in enumerate(names)}
            add("samples_best_seed", names)
        if "random" in collectives:
            size = min(n, len(archive))
            draws = [rng.choice(archive, size, replace=False) for _ in range(random_draws)]
            add("random_members", *([str(m) for m in draw] for draw in draws))
    smallest = min(forces)
    by_generation = {
        generation: tuple(skills.members[i] for i in greedy(skills.values, smallest))
        for generation, skills in sorted(candidates.archives.items())
    }
    return Plan(tuple(planned_sets.values()), samples, by_generation)
