"""AC/DC's evolution of models in one function: merge, mutate, evaluate, select.

The tasks stay the same here; `acdc_jax.coevolve` also adapts them, resumes, and uses many devices.

    python -m acdc_jax.examples.minimal_loop tasks base expert-a expert-b expert-c
"""

import sys

import jax
import numpy as np

import acdc_jax as acdc


def evolve(
    tasks_folder: str,
    base_name: str,
    *seeds: str,
    generations: int = 10,
    children: int = 8,
    size: int = 16,
    max_new_tokens: int = 256,
) -> tuple[list[acdc.Model], np.ndarray]:
    """Return the archive after some generations, and its skills [members, tasks]."""
    tasks, base = acdc.load_tasks(tasks_folder), acdc.load_hf(base_name)
    archive = [acdc.load_hf(seed) for seed in seeds]
    skills = acdc.evaluate(archive, tasks, max_new_tokens=max_new_tokens)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    for generation in range(generations):
        offspring = []
        for child_key in jax.random.split(jax.random.fold_in(key, generation), children):
            # Two parents with coefficients N(1, 0.01), then noise on singular values (§3.1).
            parents = [archive[i] for i in rng.choice(len(archive), 2, replace=False)]
            weights = rng.normal(1, 0.01, 2).tolist()
            child = acdc.merge(base, parents, weights=weights)
            offspring.append(acdc.mutate(child, child_key, acdc.SVDNoise(scale=0.01, rank=256)))
        new_skills = acdc.evaluate(offspring, tasks, max_new_tokens=max_new_tokens)
        # Parents and children compete: the archive keeps what is good and unlike the better ones.
        archive, skills = archive + offspring, np.concatenate([skills, new_skills])
        survivors = acdc.select(skills, size)
        archive, skills = [archive[i] for i in survivors], skills[survivors]
        print(f"generation {generation}: Coverage {(skills == 1).any(0).mean():.3f}")
    return archive, skills


if __name__ == "__main__":
    evolve(*sys.argv[1:])
