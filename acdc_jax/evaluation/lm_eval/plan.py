"""Choose the collectives of models to compare on benchmarks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from acdc_jax.evaluation.lm_eval.options import COLLECTIVES, CollectiveName
from acdc_jax.evaluation.task_force import fittest, greedy_task_force, spread_samples
from acdc_jax.evolution.skills import EMPTY, SkillMatrix, join, take


@dataclass(frozen=True)
class Variant:
    """How a model answers, and with whose weights.

    Attributes:
        member: Id of the member, or name of the larger model.
        own: Whether it is a seed that answers with its own configuration.
        number: Number of the sample, which draws its answers at a temperature; None: no sample.
    """

    member: str
    own: bool = False
    number: int | None = None


@dataclass(frozen=True)
class Collective:
    """Models that are scored together.

    Attributes:
        name: As in the run's results: `evolved`, `seeds`, `samples_best_seed`, `resampled_experts`,
            `random_members`; or `members`, `larger_model`, `samples_larger_model`.
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
        variants: Name of a model → how it answers; all other names are ids of members.
        by_generation: Generation → the task force that its archive would have chosen.
    """

    collectives: tuple[Collective, ...]
    variants: Mapping[str, Variant]
    by_generation: Mapping[int, tuple[str, ...]]

    @property
    def models(self) -> list[str]:
        """Every model once; the most important first, and those with the same weights together."""
        of_collectives = [
            m for collective in self.collectives for draw in collective.draws for m in draw
        ]
        of_generations = [model for force in self.by_generation.values() for model in force]
        by_member: dict[str, dict[str, None]] = {}
        for name in [*of_collectives, *of_generations]:
            by_member.setdefault(self.variant(name).member, {})[name] = None
        return [name for names in by_member.values() for name in names]

    def variant(self, model: str) -> Variant:
        """Return how a model answers."""
        return self.variants.get(model, Variant(model))

    def with_larger_model(self, model: str, sizes: Sequence[int], prng_seed: int) -> "Plan":
        """Add a larger model: its greedy answer, and as many samples as others have answers.

        Args:
            model: Its name.
            sizes: Numbers of samples; none: only the greedy answer.
            prng_seed: Part of the names of samples.
        """
        samples = {_sample_name(model, i, prng_seed): i for i in range(max(sizes, default=0))}
        collectives = [Collective("larger_model", ((model,),))]
        collectives += [
            Collective("samples_larger_model", (tuple(list(samples)[:n]),)) for n in sizes
        ]
        variants = {name: Variant(model, number=i) for name, i in samples.items()}
        return replace(
            self,
            collectives=(*self.collectives, *collectives),
            variants={**self.variants, **variants},
        )


@dataclass(frozen=True)
class Candidates:
    """The members that collectives are chosen from.

    Attributes:
        skills: Global skill matrix.
        seeds: Ids of the seed models.
        archive: Ids of the final archive, from which members are drawn at random.
        archives: Generation → skills of its archive on the tasks that were active then; empty if
            task forces of generations are not compared.
        own: Seeds whose own configuration differs from the members'.
        own_skills: Their skills with it.
    """

    skills: SkillMatrix
    seeds: Sequence[str]
    archive: Sequence[str]
    archives: Mapping[int, SkillMatrix]
    own: Collection[str] = ()
    own_skills: SkillMatrix = EMPTY

    @property
    def seed_skills(self) -> SkillMatrix:
        """Skills of the seeds, each with its own configuration."""
        tasks = self.skills.tasks
        return join(
            take(self.skills, self.seeds, tasks), take(self.own_skills, list(self.own), tasks)
        )


def plan_comparison(
    forces: Mapping[int, Sequence[str]],
    candidates: Candidates,
    *,
    collectives: Sequence[CollectiveName] = COLLECTIVES,
    random_draws: int = 1,
    prng_seed: int = 0,
) -> Plan:
    """Compare task forces with controls of the same size, all chosen on the pool's tasks alone.

    Seeds as controls answer with their own configuration; in a task force and among members drawn
    at random they are members.

    Args:
        forces: Size → task force.
        candidates: The members that controls are chosen from.
        collectives: Which collectives are compared.
        random_draws: Number of random collectives of each size.
        prng_seed: Seed of these draws, and part of the names of samples.
    """
    archive, seed_skills = candidates.archive, candidates.seed_skills
    best = fittest(seed_skills)
    rng = np.random.default_rng(prng_seed)
    planned_sets: dict[tuple[str, int], Collective] = {}
    variants: dict[str, Variant] = {}

    def add(name: str, *draws: Sequence[str]) -> None:
        collective = Collective(name, tuple(tuple(draw) for draw in draws))
        planned_sets.setdefault((name, collective.n), collective)

    def seed_model(seed: str, number: int | None = None) -> str:
        own = seed in candidates.own
        name = f"{seed}-own" if own else seed
        if number is not None:
            name = _sample_name(name, number, prng_seed)
        if own or number is not None:
            variants[name] = Variant(seed, own, number)
        return name

    for n, force in forces.items():
        if "task_force" in collectives:
            add("evolved", force)
        if "seeds" in collectives:
            add("seeds", [seed_model(seed) for seed in greedy_task_force(seed_skills, n)])
        if "samples" in collectives:
            add("samples_best_seed", [seed_model(best, i) for i in range(n)])
        if "resampled" in collectives:
            add("resampled_experts", [seed_model(*s) for s in spread_samples(seed_skills, n)])
        if "random" in collectives:
            size = min(n, len(archive))
            draws = [rng.choice(archive, size, replace=False) for _ in range(random_draws)]
            add("random_members", *([str(m) for m in draw] for draw in draws))
    smallest = min(forces)
    by_generation = {
        generation: tuple(greedy_task_force(skills, smallest))
        for generation, skills in sorted(candidates.archives.items())
    }
    return Plan(tuple(planned_sets.values()), variants, by_generation)


def _sample_name(model: str, number: int, prng_seed: int) -> str:
    return f"{model}-sample-{prng_seed}-{number}"
