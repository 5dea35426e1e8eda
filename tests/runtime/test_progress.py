"""Progress of long steps, on a terminal and elsewhere."""

import io

from rich.console import Console

from acdc_jax.runtime.progress import show_progress


def _console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=100), text


def test_lines_where_there_is_no_terminal() -> None:
    console, text = _console()
    with show_progress(console, True) as advance:
        for done in range(1, 101):
            advance("cooking", done, 100, "note")
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("cooking: 1/100")
    assert lines[-1].startswith("cooking: 100/100")
    assert lines[-1].endswith("note")
    assert len(lines) == 2  # a line every ten seconds, the first and the last


def test_silence() -> None:
    console, text = _console()
    with show_progress(console, False) as advance:
        advance("cooking", 1, 2)
    assert text.getvalue() == ""


def test_bars_on_a_terminal() -> None:
    text = io.StringIO()
    console = Console(file=text, width=120, force_terminal=True)
    with show_progress(console, True) as advance:
        advance("cooking", 3, 4, "nearly")
    assert "cooking" in text.getvalue()
    assert "3/4" in text.getvalue()
