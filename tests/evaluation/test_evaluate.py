"""Scores land at their member, task and instance; what is missing is not failed."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
import pytest

from acdc_jax.evaluation import decode_and_score, evaluate
from acdc_jax.evaluation.decode_and_score import Evaluator, answer_tasks
from acdc_jax.evaluation.evaluate import evaluate_members
from acdc_jax.evaluation.rescore import choose_rechecked, recheck_secret
from acdc_jax.evaluation.responses import Evaluation, Response
from acdc_jax.evaluation.truncation import warn_of_truncation
from acdc_jax.inference.continuous_batching import Batch
from acdc_jax.inference.device_groups import DeviceGroups
from acdc_jax.inference.engine import Engine
from acdc_jax.inference.population import in_populations, stack
from acdc_jax.models.transformer import init_params
from acdc_jax.params import Params
from acdc_jax.quickstart.train import TINY
from acdc_jax.sandbox import Outcome
from acdc_jax.sharding import make_mesh
from acdc_jax.tasks.task import Draft, Task

_MEMBERS = ("a", "b", "c")


def _task(name: str, instances: int) -> Task:
    draft = Draft(name, "d", "c", 1, "e", f"source of {name}", "novel")
    keys = [str(i) for i in range(instances)]
    return Task(name, draft, 0, {k: f"{name}{k}" for k in keys}, {k: f"{name} {k}" for k in keys})


class _Sandbox:
    """Scores 1 where the answer is the instance; fails where a task says so."""

    def __init__(self, broken: str = "") -> None:
        self.calls: list[tuple[str, list[tuple[str, str]]]] = []
        self._broken = broken

    def distrusts(self, source: str) -> bool:
        return False

    def score(
        self, source: str, items: Sequence[tuple[str, str]], *, rechecked: Sequence[int] = ()
    ) -> Future[list[Outcome]]:
        self.calls.append((source, list(items)))
        future: Future[list[Outcome]] = Future()
        future.set_result([self._outcome(*item) for item in items])
        return future

    def _outcome(self, instance: str, answer: str) -> Outcome:
        if instance == self._broken:
            return Outcome("infrastructure", None, "the machine is gone")
        if answer == "crash":
            return Outcome("task error", None, "ZeroDivisionError")
        return Outcome("score", 1.0 if answer == instance else 0.0)


# What each member says to each prompt, by member then prompt text.
_SAYS = {
    "a": {"x 0": "x0", "x 1": "wrong", "y 0": "y0"},
    "b": {"x 0": "wrong", "x 1": "wrong", "y 0": "crash"},
    "c": {"x 0": "x0", "x 1": "x1", "y 0": "y0"},
}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Decoding is replaced by a script: one batch per prompt, the last prompt first."""
    texts: list[str] = []

    def encode(instructions: str) -> tuple[int, ...]:
        texts.append(instructions)
        return (len(texts) - 1,)

    answers = sorted({text for said in _SAYS.values() for text in said.values()})

    def generate(
        config: object, weights: Params, prompts: Sequence[Sequence[int]], *_: object
    ) -> list[Batch]:
        def said(member: str, index: int) -> list[int]:
            return [answers.index(_SAYS[member][texts[prompts[index][0]]])]

        rows = [*_MEMBERS, "a"]  # the last row is padding
        return [
            Batch([i], [[said(member, i)] for member in rows])
            for i in reversed(range(len(prompts)))
        ]

    monkeypatch.setattr(decode_and_score, "generate_tokens", generate)
    return Engine(TINY, encode, lambda t: answers[t[0]], (1,), 0, 4, 4, 4)


def _evaluator(engine: Engine, sandbox: _Sandbox, instances_per_task: int = 2) -> Evaluator:
    groups = DeviceGroups.of_mesh(make_mesh("pop:1", jax.devices()[:1]))
    return Evaluator(groups, engine, sandbox, instances_per_task, 0.5)  # type: ignore[arg-type]


def test_scores_are_aligned(engine: Engine) -> None:
    sandbox = _Sandbox()
    tasks = [_task("x", 2), _task("y", 1)]
    found = answer_tasks(_evaluator(engine, sandbox), {}, _MEMBERS, tasks)()
    assert found.scores[:, 0].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert found.scores[:, 1, 0].tolist() == [1, 0, 1]
    assert np.isnan(found.scores[:, 1, 1]).all()  # y has one instance only
    assert found.skills(0.5).values.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert found.skills(0.6).values.tolist() == [[0, 1], [0, 0], [1, 1]]
    responses = {(r.member, r.task, r.instance): (r.text, r.score) for r in found.responses}
    assert len(responses) == 9
    assert responses["b", "y", "0"] == ("crash", 0.0)


def test_a_family_is_scored_in_one_call_and_equal_answers_once(engine: Engine) -> None:
    sandbox = _Sandbox()
    tasks = [_task("x", 2), _task("y", 1)]
    answer_tasks(_evaluator(engine, sandbox), {}, _MEMBERS, tasks)()
    calls = dict(sandbox.calls)
    assert len(sandbox.calls) == 2
    assert calls["source of x"] == [("x0", "x0"), ("x0", "wrong"), ("x1", "wrong"), ("x1", "x1")]
    assert calls["source of y"] == [("y0", "y0"), ("y0", "crash")]


def test_scoring_begins_while_others_decode(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A family goes to the sandbox as soon as its last instance is answered."""
    sandbox, scored = _Sandbox(), []
    scripted = decode_and_score.generate_tokens

    def generate(*arguments: Any) -> Iterator[Batch]:
        for batch in scripted(*arguments):
            scored.append(len(sandbox.calls))
            yield batch

    monkeypatch.setattr(decode_and_score, "generate_tokens", generate)
    tasks = [_task("x", 2), _task("y", 1)]
    found = answer_tasks(_evaluator(engine, sandbox), {}, _MEMBERS, tasks)()
    assert scored == [0, 1, 1]
    assert found.decode_s > 0
    assert found.scoring_s >= 0


class _Slow(_Sandbox):
    """Has no score before the last member answered; then all at once."""

    def __init__(self, answers: int) -> None:
        super().__init__()
        self.owed: list[tuple[Future[list[Outcome]], list[tuple[str, str]]]] = []
        self.answers = answers

    def score(
        self, source: str, items: Sequence[tuple[str, str]], *, rechecked: Sequence[int] = ()
    ) -> Future[list[Outcome]]:
        future: Future[list[Outcome]] = Future()
        self.owed.append((future, list(items)))
        if len(self.owed) == self.answers:
            for one, asked in self.owed:
                one.set_result([self._outcome(*item) for item in asked])
        return future


def test_the_next_members_do_not_wait_for_scores(engine: Engine) -> None:
    """It would never end if they did."""
    tasks, engine = [_task("x", 2), _task("y", 1)], dataclasses.replace(engine, population=2)
    sandbox = _Slow(2 * len(tasks))  # two of the members, and then the third
    found = evaluate_members(_evaluator(engine, sandbox), _MEMBERS, lambda member, group: {}, tasks)
    assert found.members == _MEMBERS
    assert found.scores[:, 0].tolist() == [[1, 0], [0, 0], [1, 0]]  # the third speaks as the first


class _Faulty(_Sandbox):
    """Fails an instance, or everything, so many times."""

    def __init__(self, failures: int, instance: str | None = None) -> None:
        super().__init__()
        self.failures, self.instance = failures, instance
        self.tries: Counter[tuple[str, str]] = Counter()

    def _outcome(self, instance: str, answer: str) -> Outcome:
        self.tries[instance, answer] += 1
        if self.instance in (None, instance) and self.tries[instance, answer] <= self.failures:
            return Outcome("infrastructure", None, "the judge failed")
        return super()._outcome(instance, answer)


@pytest.mark.parametrize("instance", [None, "x0"])
def test_missing_scores_are_asked_for_again(engine: Engine, instance: str | None) -> None:
    """Only these, and equal answers once; the result is that of a judge that never failed."""
    tasks = [_task("x", 2), _task("y", 1)]

    def evaluate_with(sandbox: _Sandbox) -> Evaluation:
        return evaluate_members(_evaluator(engine, sandbox), _MEMBERS, lambda m, g: {}, tasks)

    sandbox = _Faulty(2, instance)
    found, expected = evaluate_with(sandbox), evaluate_with(_Sandbox())
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.responses == expected.responses
    assert found.problem == ""
    assert all(tries <= 3 for tries in sandbox.tries.values())
    others = {tries for (asked, _), tries in sandbox.tries.items() if asked != instance}
    assert instance is None or others == {1}


def test_a_score_that_cannot_be_had_is_missing_and_nothing_else(engine: Engine) -> None:
    tasks, sandbox = [_task("x", 2), _task("y", 1)], _Faulty(99, "x0")
    found = evaluate_members(_evaluator(engine, sandbox), _MEMBERS, lambda m, g: {}, tasks)
    assert found.problem == "the judge failed"
    assert np.isnan(found.scores[:, 0, 0]).all()
    assert found.skills(0.5).values.tolist() == [[-1, 1], [-1, 0], [-1, 1]]
    assert {r.score for r in found.responses if (r.task, r.instance) == ("x", "0")} == {None}


def test_members_together_or_one_by_one() -> None:
    """A population answers as its members do; one member has no leading axis."""
    small = dataclasses.replace(TINY, num_layers=1)
    members = [init_params(small, jax.random.key(i)) for i in range(2)]
    tasks = [_task("x", 2), _task("y", 3)]

    def ask(population: int, weights: Params, names: Sequence[str]) -> list[tuple[str, str, str]]:
        engine = Engine(
            small,
            lambda text: [1, 2, 3, *(ord(letter) % 30 for letter in text)],
            lambda tokens: " ".join(map(str, tokens)),
            (),
            0,
            5,
            4,
            population,
            prefix=3,
        )
        found = answer_tasks(_evaluator(engine, _Sandbox(), 3), weights, names, tasks)()
        return [(r.member, r.task + r.instance, r.text) for r in found.responses]

    together = ask(2, stack(members), "ab")
    assert len({text for *_, text in together}) > 5
    alone = ask(1, members[0], "a") + ask(1, members[1], "b")
    assert sorted(alone) == sorted(together)
    assert not any(leaf.is_deleted() for leaf in members[0].values())


def test_responses_know_how_sure_their_member_was() -> None:
    """Means of what the decoder says of each token, the stop token's included."""
    small, seen = dataclasses.replace(TINY, num_layers=1), []
    weights = init_params(small, jax.random.key(0))
    engine = Engine(
        small,
        lambda text: [1, 2, 3, *(ord(letter) % 30 for letter in text)],
        lambda tokens: " ".join(map(str, tokens)),
        (),
        0,
        5,
        4,
        1,
    )
    decode = decode_and_score.generate_tokens

    def watched(*arguments: Any) -> Iterator[Batch]:
        for batch in decode(*arguments):
            seen.extend(batch.log_probs[0] + batch.mean_log_probs[0] if batch.log_probs else [])
            yield batch

    evaluator = _evaluator(engine, _Sandbox(), 1)
    tasks = [_task("x", 1)]
    plain = answer_tasks(evaluator, weights, ["a"], tasks)()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_and_score, "generate_tokens", watched)
        found = answer_tasks(evaluator, weights, ["a"], tasks, log_probs=True)()
    (response,) = found.responses
    assert (response.tokens, found.tokens) == (5, 5)
    assert [len(values) for values in seen] == [5, 5]
    assert response.log_prob == pytest.approx(np.mean(seen[0]))
    assert response.mean_log_prob == pytest.approx(np.mean(seen[1]))
    assert response.mean_log_prob < response.log_prob < 0  # greedy: no token is likelier
    (unasked,) = plain.responses
    assert unasked.text == response.text
    assert "log_prob" not in unasked.to_json()
    assert unasked.to_json()["score"] == 0.0


def test_only_the_first_instances_count(engine: Engine) -> None:
    found = answer_tasks(_evaluator(engine, _Sandbox(), 1), {}, _MEMBERS, [_task("x", 2)])()
    assert found.scores.shape == (3, 1, 1)


def test_an_infrastructure_failure_is_missing(engine: Engine) -> None:
    tasks = [_task("x", 2), _task("y", 1)]
    found = answer_tasks(_evaluator(engine, _Sandbox("x1")), {}, _MEMBERS, tasks)()
    assert found.skills(0.5).values.tolist() == [[-1, 1], [-1, 0], [-1, 1]]
    assert {r.score for r in found.responses if (r.task, r.instance) == ("x", "1")} == {None}


class _Depends(_Sandbox):
    """Scores of task x are 0 in company; checks find that after `unchecked` calls."""

    def __init__(self, unchecked: int) -> None:
        super().__init__()
        self.unchecked, self.distrusted = unchecked, set[str]()

    def score(
        self, source: str, items: Sequence[tuple[str, str]], *, rechecked: Sequence[int] = ()
    ) -> Future[list[Outcome]]:
        future = super().score(source, items)
        if source == "source of x" and source not in self.distrusted:
            future = Future()
            future.set_result([Outcome("score", 0.0)] * len(items))
            self.unchecked -= 1
            if self.unchecked < 0:
                self.distrust(source)
        return future

    def distrust(self, source: str) -> None:
        self.distrusted.add(source)

    def distrusts(self, source: str) -> bool:
        return source in self.distrusted


def test_no_score_of_a_task_that_a_check_refutes_is_used(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Also not those of members that were scored before the check."""
    tasks, engine = [_task("x", 2), _task("y", 1)], dataclasses.replace(engine, population=2)
    sandbox = _Depends(unchecked=1)  # the third member's answers, after those of the first two
    found = evaluate_members(_evaluator(engine, sandbox), _MEMBERS, lambda member, group: {}, tasks)
    assert found.scores[:, 0].tolist() == [[1, 0], [0, 0], [1, 0]]  # the third speaks as the first
    assert {r.score for r in found.responses if r.task == "x" and r.text == "x0"} == {1.0}
    assert "task x (x): a score depends on what was scored before it" in caplog.text
    calls = len(sandbox.calls)
    caplog.clear()
    again = evaluate_members(_evaluator(engine, sandbox), _MEMBERS, lambda member, group: {}, tasks)
    assert again.scores[:, 0].tolist() == found.scores[:, 0].tolist()
    assert len(sandbox.calls) == calls + 4  # nothing is asked twice
    assert not caplog.records


def test_a_check_in_another_process_counts_here(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox, tasks = _Depends(unchecked=10), [_task("x", 2), _task("y", 1)]
    monkeypatch.setattr(
        evaluate.multihost, "all_gather", lambda value: [value, [{}, [0.0, 0.0], ["x"], []]]
    )
    found = evaluate_members(
        _evaluator(engine, sandbox), _MEMBERS[:1], lambda member, group: {}, tasks
    )
    assert found.scores[0, 0].tolist() == [1, 0]
    assert sandbox.distrusts("source of x")
    assert not sandbox.distrusts("source of y")


def test_members_whose_logits_are_not_finite_are_named(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Here or in another process; not the rows that fill up a population."""
    decoded = decode_and_score.generate_tokens

    def generate(*arguments: Any) -> list[Batch]:
        batches: list[Batch] = decoded(*arguments)
        return [dataclasses.replace(batches[0], non_finite=(1, 3)), *batches[1:]]

    monkeypatch.setattr(decode_and_score, "generate_tokens", generate)
    monkeypatch.setattr(
        evaluate.multihost, "all_gather", lambda value: [value, [{}, [0.0, 0.0], [], ["c"]]]
    )
    evaluator = _evaluator(engine, _Sandbox())
    evaluation = evaluate_members(evaluator, _MEMBERS, lambda m, g: {}, [_task("x", 2)])
    assert evaluation.non_finite == ("b", "c")
    assert [line.split(":")[0] for line in caplog.messages] == ["b", "c"]
    others = evaluation.without(["b", "c"])
    assert (others.members, others.non_finite) == (("a",), ())
    assert others.scores.tolist() == evaluation.scores[:1].tolist()
    assert {response.member for response in others.responses} == {"a"}


def test_three_per_cent_of_scores_are_checked_and_the_key_says_which() -> None:
    answers = [(i % 8, f"answer {i}") for i in range(5_000)]
    chosen = choose_rechecked(recheck_secret(jax.random.key(1)), "t00001", answers)
    assert 100 < len(chosen) < 200
    assert chosen != choose_rechecked(recheck_secret(jax.random.key(2)), "t00001", answers)
    assert chosen != choose_rechecked(recheck_secret(jax.random.key(1)), "t00002", answers)
    # The same answers, dealt to two processes.
    parts = [
        choose_rechecked(recheck_secret(jax.random.key(1)), "t00001", answers[p::2])
        for p in range(2)
    ]
    assert sorted(2 * i + p for p in range(2) for i in parts[p]) == chosen


def test_populations_are_padded_to_one_size() -> None:
    weights = {name: {"w": jax.numpy.full((2,), i)} for i, name in enumerate("abcde")}
    groups = list(in_populations("abcde", weights.__getitem__, 3))
    assert [list(names) for names, _ in groups] == [["a", "b", "c"], ["d", "e"]]
    assert [population["w"][:, 0].tolist() for _, population in groups] == [[0, 1, 2], [3, 4, 3]]


def test_members_without_params_are_left_out() -> None:
    weights = {"a": None, "b": {"w": jax.numpy.ones(2)}, "c": None, "d": None}
    assert [names for names, _ in in_populations("abcd", weights.__getitem__, 2)] == [["b"]]
    assert [names for names, _ in in_populations("abcd", weights.__getitem__, 1)] == [["b"]]


def test_responses_that_reach_the_limit_are_truncated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is cut is no answer; neither a stop token nor a stop string is a cut."""
    said = {"x 0": "Answer: 1", "x 1": "Answer: 1.", "y 0": "Answer: 1!", "z 0": "Answer: 1"}
    length = {"x 0": 4, "x 1": 3, "y 0": 4, "z 0": 4}  # with a stop token one more
    asked = list(said)

    def generate(
        config: object, weights: Params, prompts: Sequence[Sequence[int]], *_: object
    ) -> list[Batch]:
        return [Batch([i], [[[p[0]] * length[asked[p[0]]]]]) for i, p in enumerate(prompts)]

    monkeypatch.setattr(decode_and_score, "generate_tokens", generate)
    monkeypatch.setattr(decode_and_score, "fuse_weights", lambda model, params: params)
    engine = Engine(
        TINY,
        lambda text: [asked.index(text)],
        lambda tokens: said[asked[tokens[0]]],
        (1,),
        0,
        max_new_tokens=4,
        batch_size=4,
        stopped=lambda tokens: "!" in said[asked[tokens[0]]],
    )
    tasks = [_task("x", 2), _task("y", 1), _task("z", 1)]
    sandbox = _Sandbox()
    found = evaluate_members(_evaluator(engine, sandbox), ["m"], lambda m, g: {}, tasks)
    assert [r.truncated for r in found.responses] == [True, False, False, True]
    answers = [answer for _, items in sandbox.calls for _, answer in items]
    assert answers == ["", "1.", "1!", ""]
    warn_of_truncation(found.responses, engine.max_new_tokens)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "m reaches the limit of 4 tokens in 50 % of its responses; an answer that is cut counts as "
        "wrong: raise --max_new_tokens in a new run"
    )
    assert [Response(**r.to_json()) for r in found.responses] == list(found.responses)
    old = {name: v for name, v in found.responses[0].to_json().items() if name != "truncated"}
    assert not Response(**old).truncated  # of a run before this was recorded
