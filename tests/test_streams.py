"""Standard streams without a reader, without room, without characters, or closed."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_ACDC = [sys.executable, "-m", "acdc_jax"]
_SCRIPT = """
import os, sys
from acdc_jax import streams
streams.make_lasting()
for number in range(20_000):
    print("a line of a long list ×", flush=number % 1000 == 0)
streams.print_line("done")
os.write(2, b"from C++\\n")
os._exit(7 if streams.finish() is None else 8)
"""


def _run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, **options.pop("env", {})},
        text=True,
        timeout=60,
        check=False,
        **{"capture_output": "stdout" not in options, **options},
    )


@pytest.mark.parametrize("both", [True, False])
def test_a_reader_that_leaves_does_not_end_the_command(both: bool) -> None:
    """Like `acdc tasks RUN | head`, and like `acdc run 2>&1 | tee log` when `tee` is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if both else subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("a line")
        process.stdout.close()
        said = process.stderr.read() if process.stderr else ""
        assert process.wait(60) == 7
    assert said == ("" if both else "acdc: done\nfrom C++\n")


def test_a_full_disk_is_one_line_at_the_end() -> None:
    with Path("/dev/full").open("w") as full:
        ended = _run([*_ACDC, "--help"], stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr == "acdc: standard output is not complete (No space left on device)\n"


def test_closed_streams_are_no_error() -> None:
    ended = _run(["sh", "-c", f"{sys.executable} -m acdc_jax --help >&- 2>&-"])
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"], ["sandbox", "--help"]])
def test_characters_that_a_terminal_lacks_are_replaced(command: list[str]) -> None:
    ended = _run([*_ACDC, *command], env={"PYTHONIOENCODING": "ascii"})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()


def test_a_name_that_is_not_unicode_is_printed() -> None:
    ended = _run([*_ACDC, "report", b"no-run-\xff".decode(errors="surrogateescape")])
    assert ended.returncode == 1
    assert ended.stderr.startswith("acdc: no-run-")


def test_warnings_are_lines_of_the_command() -> None:
    """Whatever a library does to the root logger."""
    script = (
        "import logging; from acdc_jax import streams; logging.basicConfig(); "
        "streams.show_warnings(); logging.getLogger('acdc_jax.models').warning('%d rows', 3)"
    )
    result = _run([sys.executable, "-c", script], capture_output=True)
    assert (result.stdout, result.stderr) == ("", "acdc: 3 rows\n")
