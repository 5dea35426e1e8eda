"""What is kept of the harness's samples, and how an answer is chosen from them."""

import math
from types import SimpleNamespace
from typing import Any

from acdc_jax.evaluation.lm_eval.samples import questions_of, read_samples
from acdc_jax.evaluation.lm_eval.tasks import Benchmark

_SCORE = ("exact_match", "first")


def _kept(response: str, filtered: str, score: float) -> list[dict[str, Any]]:
    task = SimpleNamespace(OUTPUT_TYPE="generate_until", doc_to_text=lambda doc: doc["q"])
    sample = {
        "doc_id": 3,
        "doc": {"q": "2+2?"},
        "filter": "first",
        "metrics": ["exact_match"],
        "exact_match": score,
        "target": "4",
        "arguments": [("user: 2+2?", {"until": []})],
        "resps": [[response]],
        "filtered_resps": [filtered],
    }
    known = {("user: 2+2?", "four"): (-0.5, 2.0)}
    return read_samples(
        Benchmark("sums", {"tasks": {"sums": task}}),
        {"sums": [sample]},
        lambda arguments, text: known.get((arguments[0], text)),
    )


def test_a_vote_is_for_the_declared_answer_if_the_filter_keeps_the_response() -> None:
    """As with minerva_math: whole responses would never agree."""
    (line,) = _kept("It is easy, \\boxed{4}", "It is easy, \\boxed{4}", 1.0)
    assert line["answer"] == "4"
    (line,) = _kept("It is 4. The final answer is 5", "4", 1.0)
    assert line["answer"] == "4"
    (line,) = _kept("Hm.", "[invalid]", 0.0)
    assert line["answer"] is None


def test_questions_have_the_answers_of_every_model() -> None:
    samples = {"a": _kept("four", "4", 1.0), "b": _kept("Hm.", "[invalid]", 0.0)}
    ((item, question),) = questions_of(samples, _SCORE).items()
    assert (item, question.question) == ("sums/3", "2+2?")
    one, other = question.answers
    assert (one.text, one.declared, one.solved) == ("four", "4", True)
    assert (one.log_prob, one.self_certainty) == (-0.5, 2.0)
    assert (other.text, other.declared, other.solved) == ("Hm.", "", False)
    assert math.isnan(other.log_prob)  # not on file
