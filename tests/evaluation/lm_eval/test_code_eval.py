"""Code benchmarks: the harness's own tasks score members' programs in the sandbox."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.model import LM

from acdc_jax.errors import AcdcError
from acdc_jax.evaluation.lm_eval.code_eval import CODE_EVAL, pass_at
from acdc_jax.evaluation.lm_eval.tasks import Prompting, run_benchmark
from acdc_jax.sandbox import Limits, Sandbox, SandboxError
from tests.support import harness_tasks

pytestmark = [pytest.mark.xdist_group("harness"), pytest.mark.filterwarnings("ignore")]

# As humaneval and mbpp have it, their own functions included; the data are ours.
HUMANEVAL = """
unsafe_code: true
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{test}}\\ncheck({{entry_point}})"
metric_list:
  - metric: !function lm_eval.tasks.humaneval.utils.pass_at_k
    aggregation: mean
    higher_is_better: true
    k: [1]
generation_kwargs: {until: ["\\ndef"], max_gen_toks: 64}
num_fewshot: 0
filter_list:
  - name: create_test
    filter:
      - function: custom
        filter_fn: !function lm_eval.tasks.humaneval.utils.build_predictions
"""
MBPP = """
unsafe_code: true
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{test}}"
metric_list:
  - metric: !function lm_eval.tasks.mbpp.utils.pass_at_1
    aggregation: mean
    higher_is_better: true
generation_kwargs: {until: [], max_gen_toks: 64}
num_fewshot: 0
filter_list:
  - name: extract_code
    filter:
      - function: custom
        filter_fn: !function lm_eval.tasks.mbpp.utils.build_predictions
"""
OWN = """
unsafe_code: true
output_type: generate_until
doc_to_text: "{{text}}"
doc_to_target: "{{test}}"
metric_list:
  - metric: !function runs_it.passes
    aggregation: mean
    higher_is_better: true
"""


class Scripted(LM):  # type: ignore[misc]
    """Says what it was told to."""

    def __init__(self, answers: Sequence[str]) -> None:
        super().__init__()
        self._answers = answers

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        return list(self._answers)

    def loglikelihood(self, requests: Any) -> Any:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: Any) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def opened() -> Iterator[None]:
    """Programs may be executed."""
    with CODE_EVAL.opened(lambda: Sandbox(2, Limits())):
        yield


def _scores(path: Path, answers: Sequence[str], metric: str) -> list[float]:
    (benchmark,) = harness_tasks.load(path)
    found = run_benchmark(Scripted(answers), benchmark, Prompting(chat=False))
    return [sample[metric] for sample in found["samples"][benchmark.name]]


def test_humaneval(opened: None, tmp_path: Path) -> None:
    """Right, wrong, broken, endless, and hostile: in another process, where nothing is reached."""
    mark = tmp_path / "mark"
    bodies = {
        "    return a + b\n": 1.0,
        "    return a - b\n": 0.0,
        "    return a +\n": 0.0,
        "    while True: pass\n": 0.0,
        "    import os\n    os._exit(0)\n": 0.0,
        f"    open({str(mark)!r}, 'w').write('here')\n    return a + b\n": 0.0,
        f"    import os\n    return a + b if os.getpid() != {os.getpid()} else 0\n": 1.0,
    }
    document = {
        "prompt": "def add(a, b):\n",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5",
        "entry_point": "add",
    }
    path = harness_tasks.write_task(tmp_path, "my_humaneval", HUMANEVAL, [document] * len(bodies))
    assert _scores(path, list(bodies), "pass@1") == list(bodies.values())
    assert not mark.exists()


def test_mbpp(opened: None, tmp_path: Path) -> None:
    documents = [{"text": "Double.", "test": "assert double(2) == 4\nassert double([1]) == [1, 1]"}]
    path = harness_tasks.write_task(tmp_path, "my_mbpp", MBPP, documents * 2)
    answers = ["python\ndef double(x):\n    return x * 2\n```", "python\ndouble = len\n```"]
    assert _scores(path, answers, "pass_at_1") == [1.0, 0.0]


def test_what_cannot_be_moved_is_refused(opened: None, tmp_path: Path) -> None:
    code = "def passes(references, predictions):\n    exec(predictions[0])\n"
    (tmp_path / "runs_it.py").write_text(code)
    path = harness_tasks.write_task(tmp_path, "own", OWN, [{"text": "a", "test": "b"}])
    with pytest.raises(AcdcError, match="own executes members' code in this process"):
        harness_tasks.load(path)


def test_a_failing_sandbox_is_no_wrong_answer(
    opened: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CODE_EVAL.compute(references=["assert f() == 1"], predictions=[["f = lambda: 1"]])[0]

    def fail(*_: object) -> None:
        raise SandboxError("no fork")

    monkeypatch.setattr(Sandbox, "_run", fail)
    with pytest.raises(SandboxError, match="no fork"):
        CODE_EVAL.compute(references=["pass"], predictions=[["pass"]])


def test_pass_at_k(opened: None) -> None:
    assert pass_at(4, 1, 1) == pytest.approx(0.25)
    assert pass_at(4, 1, 2) == pytest.approx(0.5)  # of 6 pairs, 3 hold the one that passes
    assert pass_at(3, 2, 2) == 1.0
    passed, results = CODE_EVAL.compute(
        references=["assert x == 1", "assert x == 2"],
        predictions=[["x = 1", "x = 2"], ["x = 1", "x = 1"]],
        k=[1, 2, 3],
    )
    assert passed == pytest.approx({"pass@1": 0.25, "pass@2": 0.5})
    assert [verdict["passed"] for _, verdict in results[0]] == [True, False]
