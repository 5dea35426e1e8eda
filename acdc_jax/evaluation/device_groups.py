"""Members are dealt to groups of devices; each group makes, decodes and scores its own.

A group is one row of the mesh: the devices over which one member's weights lie. Every group has
programs, and a thread, of its own: one that ends early takes its next members at once, and nothing
in any program waits for another group. Groups belong to the processes that own their devices; what
each process found, all are told.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np

from acdc_jax import multihost
from acdc_jax.evaluation.answer_tasks import GREEDY, Engine, Evaluation, Response, answer
from acdc_jax.inference.population import in_populations
from acdc_jax.inference.sampling import Sampling
from acdc_jax.params import Params
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks.task import Task

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Group:
    """Devices that hold one member at a time, or one stacked population.

    Attributes:
        number: among the groups of this process.
        rank: among all groups of the run.
        engine: decodes on these devices.
        base: weights θ₀ on these devices.
        device: the first of them, where small arrays go.
    """

    number: int
    rank: int
    engine: Engine
    base: Params
    device: jax.Device


@dataclasses.dataclass(frozen=True)
class Groups:
    """This process's groups, and how many there are in all processes."""

    own: tuple[Group, ...]
    count: int

    @property
    def members_at_once(self) -> int:
        """Members that are decoded at the same time, in all processes."""
        return self.count * self.own[0].engine.population

    def run(self, work: Callable[[Group], T]) -> list[T]:
        """Lets every group of this process work, each in a thread of its own.

        Raises:
            Exception: the first group's that failed, once all have ended.
        """

        def here(group: Group) -> T:
            with jax.default_device(group.device):
                return work(group)

        if len(self.own) == 1:
            return [here(self.own[0])]
        with ThreadPoolExecutor(len(self.own), "group") as threads:
            return list(threads.map(here, self.own))

    def share(self, group: Group, members: Sequence[T]) -> Sequence[T]:
        """Which of the members are a group's: every so-manieth."""
        return members[group.rank :: self.count]


def evaluate_members(
    groups: Groups,
    sandbox: Sandbox,
    members: Sequence[str],
    weights: Callable[[str, Group], Params],
    tasks: Sequence[Task],
    *,
    prefetch: Callable[[Sequence[str], Group], None] = lambda names, group: None,
    instances_per_task: int = 1,
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
    draws: Mapping[str, int] | None = None,
    log_probs: bool = False,
) -> Evaluation:
    """Lets members answer tasks and scores the answers, wherever in the run.

    Args:
        groups: whom they are dealt to.
        sandbox: where this process's task code scores.
        members: ids; the same in every process.
        weights: gives, or makes, a member on a group's devices; called in that group's thread.
        tasks: what to answer.
        prefetch: told which members a group will ask for next.
        instances_per_task: the first so many instances of each family count.
        sampling: greedy unless said otherwise.
        key: PRNG key; needed only when sampling. Each member draws from a key of its own.
        draws: member → number of its key; by default its place among the members.
        log_probs: whether responses get their log-probabilities.

    Returns:
        Scores of all members, in every process. Responses, by member, then prompt: of all members
        in the first process, of this one's in the others. Seconds are those of the group that took
        longest.
    """
    places = draws or {member: m for m, member in enumerate(members)}

    def keys(names: Sequence[str], size: int) -> jax.Array:
        """One per member, whatever its group; rows that only fill a population may have any."""
        assert key is not None
        rows = np.resize([places[name] for name in names], size).astype(np.int32)
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)

    def work(group: Group) -> list[Evaluation]:
        answered = []
        for names, population in in_populations(
            groups.share(group, members),
            lambda name: weights(name, group),
            group.engine.population,
            lambda names: prefetch(names, group),
        ):
            answered.append(
                answer(
                    group.engine,
                    sandbox,
                    population,
                    names,
                    tasks,
                    instances_per_task=instances_per_task,
                    sampling=sampling,
                    key=None if key is None else keys(names, group.engine.population),
                    log_probs=log_probs,
                )
            )
            del population  # before the next one comes
        return [scored() for scored in answered]

    parts = groups.run(work)
    own = [found for part in parts for found in part]
    # Groups work side by side, and each does one thing after the other.
    seconds = max(
        (
            (sum(found.decode_s for found in part), sum(found.scoring_s for found in part))
            for part in parts
        ),
        key=sum,
    )
    scores = {
        member: found.scores[m].tolist() for found in own for m, member in enumerate(found.members)
    }
    said: dict[str, list[Response]] = {member: [] for member in members}
    for response in (response for found in own for response in found.responses):
        said[response.member].append(response)
    for others, spent in multihost.all_gather([scores, seconds]):
        scores |= others
        seconds = max(seconds, tuple(spent), key=sum)
    packed = {
        member: [dataclasses.astuple(r) for r in mine] for member, mine in said.items() if mine
    }
    for part in multihost.gather(packed):
        said |= {member: [Response(*fields) for fields in mine] for member, mine in part.items()}
    shape = (len(members), len(tasks), instances_per_task)
    return Evaluation(
        tuple(members),
        tuple(task.id for task in tasks),
        np.asarray([scores[member] for member in members], np.float64).reshape(shape),
        np.asarray([min(len(task.instructions), instances_per_task) for task in tasks]),
        tuple(response for member in members for response in said[member]),
        *seconds,
    )
