"""Evaluate members on tasks, on the device groups of all processes.

`decode_and_score.py` is the part of one group. Here the parts are joined, and scores that are
missing or cannot be trusted are asked for again.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from acdc_jax import multihost
from acdc_jax.evaluation.decode_and_score import Evaluator, NumberOf, answer_tasks, instance_counts
from acdc_jax.evaluation.rescore import recheck_secret, score_again
from acdc_jax.evaluation.responses import Evaluation, Response
from acdc_jax.inference.device_groups import DeviceGroup
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.overflow import describe_overflow
from acdc_jax.inference.population import in_populations
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.params import Params
from acdc_jax.sandbox import Sandbox
from acdc_jax.tasks.task import Task

ParamsOf = Callable[[str, int], Params]
"""(member id, index of a device group) → the member's params on the devices of that group."""

Prefetch = Callable[[Sequence[str], int], None]
"""(member ids, index of a device group): these members are needed on that group next."""

_log = logging.getLogger(__name__)


def member_keys(key: jax.Array, members: Sequence[str]) -> dict[str, jax.Array]:
    """Return a PRNG key for each member, folded from its position."""
    return {member: jax.random.fold_in(key, m) for m, member in enumerate(members)}


def evaluate_members(
    evaluator: Evaluator,
    members: Sequence[str],
    params_of: Callable[[str, int], Params | None],
    tasks: Sequence[Task],
    *,
    prefetch: Prefetch = lambda members, group: None,
    sampling: Sampling = GREEDY,
    keys: Mapping[str, jax.Array] | None = None,
    number_of: NumberOf | None = None,
    log_probs: bool = False,
    recheck_key: jax.Array | None = None,
) -> Evaluation:
    """Evaluate members on tasks, on the device groups of all processes.

    Scores that the judge or the sandbox failed to give are asked for again. So are all scores of a
    task of which a checked score differs (see `rescore`). A member whose logits are not finite in
    some response is named in a warning.

    Args:
        evaluator: Where and how members answer.
        members: Ids; the same in every process.
        params_of: Returns the params of a member, or makes them; called in the group's thread.
            None leaves the member out of the evaluation.
        tasks: The tasks.
        prefetch: Called with the members that a group needs next.
        sampling: How to draw tokens; greedy by default.
        keys: Member → typed PRNG key; needed only for sampling.
        number_of: Numbers prompts for sampling; None: by their place among these tasks.
        log_probs: Whether responses get log-probabilities.
        recheck_key: Typed PRNG key that chooses the scores to check; None: key 0.

    Returns:
        Scores of the members that have params, in every process. Responses by member, then task: of
        all members in the first process, of its own members in the others. Seconds are those of the
        slowest group.
    """
    secret = recheck_secret(jax.random.key(0) if recheck_key is None else recheck_key)

    def evaluate_share(group: DeviceGroup) -> list[Evaluation]:
        """Evaluate the members of one group; wait for scores after the last response."""
        engine, pending = evaluator.engine, []
        shardings = param_shardings(group.mesh, engine.model, population=engine.population > 1)
        for names, population in in_populations(
            evaluator.groups.share(group, members),
            lambda name: params_of(name, group.index),
            engine.population,
            lambda names: prefetch(names, group.index),
        ):
            placed = jax.device_put(population, {path: shardings[path] for path in population})
            del population  # free memory for the next population
            key = None if keys is None else _stacked([keys[name] for name in names], engine)
            pending.append(
                answer_tasks(
                    evaluator,
                    placed,
                    names,
                    tasks,
                    sampling=sampling,
                    key=key,
                    number_of=number_of,
                    log_probs=log_probs,
                    secret=secret,
                )
            )
            del placed
        return [collect() for collect in pending]

    sandbox = evaluator.sandbox
    trusted = [task for task in tasks if not sandbox.distrusts(task.draft.source)]
    evaluation = _merge(members, tasks, evaluator, evaluator.groups.run(evaluate_share))
    distrusted = [task for task in trusted if sandbox.distrusts(task.draft.source)]
    evaluation = _drop_scores(evaluation, distrusted)
    if evaluation.non_finite and multihost.is_first():
        overflow = describe_overflow(evaluator.engine.model.dtype)
        for member in evaluation.non_finite:
            _log.warning("%s: %s", member, overflow)
    return _score_missing_again(sandbox, tasks, evaluation)


def _stacked(keys: Sequence[jax.Array], engine: Engine) -> jax.Array:
    """Return [population] keys; rows that only pad the population repeat the first key."""
    return jnp.stack([*keys, *[keys[0]] * (engine.population - len(keys))])


def _merge(
    members: Sequence[str],
    tasks: Sequence[Task],
    evaluator: Evaluator,
    shares: Sequence[Sequence[Evaluation]],
) -> Evaluation:
    """Join the evaluations of this process's groups, and those of the other processes."""
    local = [evaluation for share in shares for evaluation in share]
    # Groups work side by side; each evaluates one population after the other.
    seconds = max(
        ((sum(e.decode_s for e in share), sum(e.scoring_s for e in share)) for share in shares),
        key=sum,
    )
    scores = {member: e.scores[m].tolist() for e in local for m, member in enumerate(e.members)}
    responses: dict[str, list[Response]] = {member: [] for member in members}
    for response in (response for evaluation in local for response in evaluation.responses):
        responses[response.member].append(response)
    sandbox, sources = evaluator.sandbox, {task.id: task.draft.source for task in tasks}
    distrusted = [task for task, source in sources.items() if sandbox.distrusts(source)]
    non_finite = {member for evaluation in local for member in evaluation.non_finite}
    exchanged = multihost.all_gather([scores, seconds, distrusted, sorted(non_finite)])
    for remote_scores, remote_seconds, remote_distrusted, remote_non_finite in exchanged:
        scores |= remote_scores
        non_finite.update(remote_non_finite)
        seconds = max(seconds, tuple(remote_seconds), key=sum)
        for task in remote_distrusted:
            sandbox.distrust(sources[task])
    packed = {member: list(map(_fields, rows)) for member, rows in responses.items() if rows}
    for remote in multihost.gather(packed):
        responses |= {
            member: [Response(*fields) for fields in rows] for member, rows in remote.items()
        }
    per_task = evaluator.instances_per_task
    members = [member for member in members if member in scores]  # that have weights
    return Evaluation(
        tuple(members),
        tuple(task.id for task in tasks),
        np.asarray([scores[member] for member in members], np.float64).reshape(
            len(members), len(tasks), per_task
        ),
        instance_counts(tasks, per_task),
        tuple(response for member in members for response in responses[member]),
        *seconds,
        non_finite=tuple(member for member in members if member in non_finite),
    )


def _fields(response: Response) -> list[Any]:
    return list(vars(response).values())


def _drop_scores(evaluation: Evaluation, tasks: Sequence[Task]) -> Evaluation:
    """Return an evaluation without the scores of tasks whose scores depend on other answers."""
    if not tasks:
        return evaluation
    scores, names = evaluation.scores.copy(), [task.id for task in tasks]
    for task in tasks:
        scores[:, evaluation.tasks.index(task.id)] = np.nan
        _log.warning(
            "task %s (%s): a score depends on what was scored before it; all its answers are "
            "scored again one by one, now and from now on",
            task.id,
            task.draft.name,
        )
    return dataclasses.replace(
        evaluation,
        scores=scores,
        responses=tuple(
            dataclasses.replace(response, score=None) if response.task in names else response
            for response in evaluation.responses
        ),
    )


def _score_missing_again(
    sandbox: Sandbox, tasks: Sequence[Task], evaluation: Evaluation
) -> Evaluation:
    """Return an evaluation with the scores that were missing, as far as they can be had now.

    The first process has all responses, and asks for the others.
    """
    exists = np.arange(evaluation.scores.shape[2]) < evaluation.instances[:, None]
    if not np.isnan(evaluation.scores[:, exists]).any():
        return evaluation
    started, found = time.monotonic(), list[tuple[str, str, str, float]]()
    problem = ""
    if multihost.is_first():
        unscored = [response for response in evaluation.responses if response.score is None]
        items = [(r.task, r.instance, r.answer) for r in unscored]
        known, problem = score_again(sandbox, tasks, items)
        found = [
            (response.member, response.task, response.instance, known[item])
            for response, item in zip(unscored, items, strict=True)
            if item in known
        ]
    found, problem = multihost.broadcast([found, problem])
    scores = evaluation.scores.copy()
    for member, task_id, instance, score in found:
        task = evaluation.tasks.index(task_id)
        position = list(tasks[task].instructions).index(instance)
        scores[evaluation.members.index(member), task, position] = score
    by_id = {(member, task_id, instance): score for member, task_id, instance, score in found}
    return dataclasses.replace(
        evaluation,
        scores=scores,
        responses=tuple(
            dataclasses.replace(r, score=by_id.get((r.member, r.task, r.instance), r.score))
            for r in evaluation.responses
        ),
        scoring_s=evaluation.scoring_s + time.monotonic() - started,
        problem=problem,
    )
