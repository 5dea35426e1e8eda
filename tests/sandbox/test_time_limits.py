"""Time limits are CPU seconds: a busy machine changes no score, and a task that waits ends soon."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acdc_jax.sandbox import FamilyReport, Limits, Outcome, Result
from acdc_jax.sandbox.item_clock import ItemClock, Reading

from .helpers import family, open_sandbox

# The time that a score takes where each of eight workers has a quarter of a core, and it needs 0.3.
CHECK = family(
    "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
    "return float(s == 'yes')"
)
WAIT = family("import time\nif s == 'wait': time.sleep(60)\nreturn 1.0")


def test_right_answers_on_a_busy_machine_are_right() -> None:
    """Eight workers share the cores, and each item takes longer than `wall_s`."""
    with open_sandbox(workers=8, limits=Limits(wall_s=0.2, cpu_s=1.5)) as sandbox:
        futures = [sandbox.score(CHECK, [(None, "yes"), (None, "no")]) for _ in range(8)]
        outcomes = [future.result() for future in futures]
    assert outcomes == [[Outcome("score", 1.0), Outcome("score", 0.0)]] * 8


def test_inspections_and_submissions_have_cpu_seconds_too() -> None:
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"
    with open_sandbox(workers=4, limits=Limits(wall_s=0.2, cpu_s=1.5)) as sandbox:
        reports = [sandbox.inspect(family("return 1.0", burn)) for _ in range(4)]
        results = [sandbox.run(burn, None) for _ in range(4)]
        assert {report.result().error for report in reports} == {None}
        assert [result.result() for result in results] == [Result("value", None)] * 4


def test_cpu_seconds_are_those_of_one_item() -> None:
    """In a batch, an endless item ends after its own seconds, not after those of all."""
    source = family("while s == 'endless': pass\nreturn 1.0")
    items = [(None, text) for text in ["", "endless", *[""] * 60]]
    with open_sandbox(limits=Limits(wall_s=0.2, cpu_s=0.5)) as sandbox:
        cpu = time.monotonic()
        outcomes = sandbox.score(source, items).result()
        assert time.monotonic() - cpu < 30  # twice half a second on an idle machine
    assert [outcome.score for outcome in outcomes] == [1.0, None, *[1.0] * 60]
    assert outcomes[1] == Outcome("timeout", None, "used more than 0.5 s of CPU")


def test_an_item_that_waits_ends_after_a_patient_second_try() -> None:
    with open_sandbox(limits=Limits(wall_s=0.2)) as sandbox:
        outcomes = sandbox.score(WAIT, [(None, text) for text in ("", "wait", "")]).result()
        assert [outcome.score for outcome in outcomes] == [1.0, None, 1.0]
        assert outcomes[1].detail == "waited for 0.8 s without using the CPU"
        report = sandbox.inspect(family("return 1.0", "import time; time.sleep(60)")).result()
        assert report == FamilyReport({}, {}, "waited for 0.8 s without using the CPU")


def test_a_pause_is_forgiven_in_the_second_try() -> None:
    with open_sandbox(limits=Limits(wall_s=0.3)) as sandbox:
        source = family("import time\ntime.sleep(0.6)\nreturn 1.0")
        assert sandbox.score(source, [(None, "")]).result() == [Outcome("score", 1.0)]


def test_a_family_that_waits_does_not_hold_up_a_run() -> None:
    with open_sandbox(limits=Limits(wall_s=0.2)) as sandbox:
        outcomes = sandbox.score(WAIT, [(None, "wait")] * 12).result()
    assert [outcome.status for outcome in outcomes] == ["timeout"] * 12
    details = [outcome.detail.split()[2] for outcome in outcomes]
    assert details == ["0.8"] * 3 + ["0.2"] * 9


def test_a_submission_that_waits_uses_up_its_budget() -> None:
    source = family(
        "f, failed = get_function_name_to_callable(s)['f'], 0\n"
        "for _ in range(30):\n    try: f()\n    except SubmissionError: failed += 1\n"
        "return failed / 30"
    )
    with open_sandbox(limits=Limits(wall_s=0.2)) as sandbox:
        start = time.monotonic()
        submission = "import time\ndef f(): time.sleep(60)"
        assert sandbox.score(source, [(None, submission)]).result() == [Outcome("score", 1.0)]
        assert time.monotonic() - start < 10


# ------------------------------------------------------------------------------------ the clock


@given(
    share=st.fractions(Fraction(6, 100), 1),
    needed=st.fractions(Fraction(1, 100), Fraction(19, 10)),
    tick=st.fractions(Fraction(1, 100), Fraction(1, 2)),
)
def test_a_slow_process_is_never_cut(share: Fraction, needed: Fraction, tick: Fraction) -> None:
    """Whatever share of a core it gets above `min_share`, until it has used its CPU seconds."""
    clock, now = ItemClock(0.0), Fraction(0)
    while now * share < needed:
        clock.read(Reading(5.0 + float(now * share), float(now)))
        assert clock.cut(Limits()) is None
        now += tick


@pytest.mark.parametrize(
    ("cpu_s", "at", "cut"),
    [(0.0, 2.9, None), (0.0, 3.1, "idle"), (0.1, 4.9, None), (0.1, 5.1, "idle"), (2.1, 2.2, "cpu")],
)
def test_when_an_item_is_cut(cpu_s: float, at: float, cut: str | None) -> None:
    clock = ItemClock(100.0)
    assert clock.cut(Limits()) is None
    clock.read(Reading(7.0, 100.0))
    clock.read(Reading(7.0 + cpu_s, 100.0 + at))
    assert clock.cut(Limits()) == cut
