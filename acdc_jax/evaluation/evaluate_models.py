"""Evaluate models on tasks with one call: the `evaluate` of the public API."""

import contextlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int8

from acdc_jax.evaluation.decode_and_score import Evaluator
from acdc_jax.evaluation.evaluate import ParamsOf, evaluate_members, member_keys
from acdc_jax.evaluation.truncation import warn_of_truncation
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.overflow import describe_overflow
from acdc_jax.inference.sampling import GREEDY, Sampling
from acdc_jax.inference.text_codec import make_text_codec
from acdc_jax.models.model import Model
from acdc_jax.sandbox import Limits, Sandbox
from acdc_jax.sandbox.cpus import default_workers
from acdc_jax.tasks.task import CheckedDraft, Draft, Task
from acdc_jax.tasks.validate import check_drafts

_MODELS_AT_ONCE = 3  # on a device group: params as stored, with fused weights, and the cache


def evaluate(
    models: Sequence[Model],
    tasks: Sequence[Task | Draft],
    *,
    max_new_tokens: int = 512,
    instances_per_task: int = 1,
    skill_threshold: float = 0.5,
    system_prompt: str | None = None,
    batch_size: int = 64,
    sampling: Sampling = GREEDY,
    key: jax.Array | None = None,
    sandbox: Sandbox | None = None,
) -> Int8[np.ndarray, "models tasks"]:
    """Return which tasks each model solves.

    Task code is untrusted: it runs in a sandbox. Models are evaluated one after the other.

    Args:
        models: The models; their architectures can differ.
        tasks: Tasks, or drafts, which are validated first.
        max_new_tokens: Longest response.
        instances_per_task: Largest number of instances to ask per task, from the first on.
        skill_threshold: Mean score from which a task counts as solved.
        system_prompt: System message; None for none.
        batch_size: Largest number of responses that a device group decodes at once.
        sampling: How to draw tokens; greedy by default.
        key: Typed PRNG key; needed only for sampling.
        sandbox: Where task code runs; by default one is opened for this call.

    Returns:
        [models, tasks] int8: 1 solved, 0 failed, -1 missing because the sandbox failed.

    Raises:
        TypeError: `models` is one model instead of several.
        ValueError: There is no model or no task, a draft is not valid, a number is not positive, or
            a temperature is given without a key; or a model's activations overflow its dtype.
        SandboxError: This machine cannot isolate untrusted code.
    """
    if isinstance(models, Model):
        raise TypeError("models is one model; pass a list of models")
    if not models or not tasks:
        raise ValueError("evaluate needs at least one model and one task")
    if instances_per_task < 1:
        raise ValueError(f"instances_per_task must be positive, not {instances_per_task}")
    if not sampling.greedy and key is None:
        raise ValueError("sampling with a temperature needs a key: pass key=jax.random.key(0)")
    with contextlib.ExitStack() as stack:
        if sandbox is None:
            sandbox = stack.enter_context(Sandbox(default_workers(), Limits()))
        checked = _checked(tasks, sandbox, skill_threshold)
        names = [str(m) for m in range(len(models))]
        keys = None if key is None else member_keys(key, names)
        rows = []
        for name, model in zip(names, models, strict=True):
            engine = _engine(model, max_new_tokens, batch_size, system_prompt)
            groups = DeviceGroups.for_model(model.config, _MODELS_AT_ONCE)
            evaluator = Evaluator(groups, engine, sandbox, instances_per_task, skill_threshold)
            evaluation = evaluate_members(
                evaluator, [name], _params_of(model), checked, sampling=sampling, keys=keys
            )
            if evaluation.non_finite:
                overflow = describe_overflow(model.config.dtype, 'load it with dtype="bfloat16"')
                raise ValueError(f"model {name}: {overflow}")
            warn_of_truncation(evaluation.responses, max_new_tokens)
            rows.append(evaluation.skills(skill_threshold).values[0])
    return np.stack(rows)


def _params_of(model: Model) -> ParamsOf:
    return lambda _name, _group: model.params


def _engine(
    model: Model, max_new_tokens: int, batch_size: int, system_prompt: str | None
) -> Engine:
    rows = model.config.vocab_size
    text = make_text_codec(model.tokenizer, model.stop_tokens, rows, system_prompt=system_prompt)
    return Engine(
        model.config,
        text.encode,
        text.decode,
        text.stop_tokens,
        text.pad_token,
        max_new_tokens,
        batch_size,
        stopped=text.stopped,
    )


def _checked(tasks: Sequence[Task | Draft], sandbox: Sandbox, skill_threshold: float) -> list[Task]:
    """Return the tasks, with drafts validated.

    Raises:
        ValueError: A draft is not valid.
    """
    drafts = [task for task in tasks if isinstance(task, Draft)]
    verdicts = iter(check_drafts(drafts, sandbox, skill_threshold, trusted=True))
    checked = []
    for number, task in enumerate(tasks):
        if isinstance(task, Draft):
            verdict = next(verdicts)
            if not isinstance(verdict, CheckedDraft):
                raise ValueError(f"draft {task.name} is not valid: {verdict.reason}")
            task = Task(f"d{number:05d}", task, 0, verdict.instances, verdict.instructions)
        checked.append(task)
    return checked
