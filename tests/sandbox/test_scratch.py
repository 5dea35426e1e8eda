"""Each call has a scratch folder, which is bounded and removed afterwards."""

from collections.abc import Iterator

import pytest

from acdc_jax.sandbox import Outcome, Sandbox

from .helpers import family, open_sandbox

TOP = "import os, tempfile"


@pytest.fixture(scope="module", params=["full", "namespaces + seccomp"])
def tiered(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """Return a sandbox of each tier that has a scratch folder."""
    with open_sandbox(request.param) as opened:
        yield opened


def score(sandbox: Sandbox, body: str) -> Outcome:
    (outcome,) = sandbox.score(family(body, TOP), [(None, "")]).result()
    return outcome


def test_files_and_folders(tiered: Sandbox) -> None:
    body = """
with open('notes.txt', 'w') as f: f.write('kept')
os.mkdir('sub'); os.rename('notes.txt', 'sub/n')
with tempfile.TemporaryDirectory() as d, tempfile.NamedTemporaryFile(dir=d) as f:
    f.write(b'x' * 500_000); f.flush()
    assert os.path.getsize(f.name) == 500_000 and d.startswith(os.getcwd())
return float(open('sub/n').read() == 'kept' and os.listdir() == ['sub'])"""
    assert score(tiered, body) == Outcome("score", 1.0)


@pytest.mark.parametrize(
    "leave",
    [
        "open('left', 'w').close()",
        "os.makedirs('a/b/c')",
        "open('left', 'wb').write(bytes(1 << 20))",
        "os.chdir('/'); os.mkdir(tempfile.gettempdir() + '/.hidden')",
        "open('left', 'w').close(); os.unlink('left'); os.mkdir('left')",
        "os.mkdir('locked'); open('locked/x', 'w').close(); os._exit(0)",
        "f = open('left', 'wb')\nwhile True: f.write(bytes(1 << 16))",
        "for i in range(10**6): open(str(i), 'w').close()",
    ],
)
def test_nothing_is_left_for_the_next_call(leave: str, tiered: Sandbox) -> None:
    score(tiered, leave + "\nreturn 0.0")
    empty = "return float(os.listdir() == [] and os.statvfs('.').f_ffree > 400)"
    assert score(tiered, empty) == Outcome("score", 1.0)


def test_the_scratch_folder_is_bounded(tiered: Sandbox) -> None:
    body = """
written = 0
try:
    for i in range(99):
        with open(str(i), 'wb') as f: written += f.write(bytes(1 << 19))
except OSError: pass
return written / (8 << 20)"""
    outcome = score(tiered, body)
    assert outcome.score is not None
    assert 0.4 < outcome.score <= 0.5  # 4 MiB
    names = """
made = 0
try:
    for i in range(5000): os.mkdir(str(i)); made += 1
except OSError: pass
return made / 5000"""
    outcome = score(tiered, names)
    assert outcome.score is not None
    assert 0.08 < outcome.score < 0.11  # some 500


@pytest.mark.parametrize(
    "body",
    [
        "open('p', 'w').write('#!/bin/true'); os.chmod('p', 0o755)",
        "os.symlink('/etc/passwd', 'l')",
        "os.mkfifo('f')",
        "open('x', 'w').close(); os.link('x', 'y')",
        "import socket; socket.socket(1).bind('s')",
        "os.chdir('..'); open('beside', 'w')",
        "os.rename('.', '../other')",
    ],
)
def test_the_scratch_folder_holds_plain_files_only(body: str, tiered: Sandbox) -> None:
    assert score(tiered, body + "\nreturn 1.0").status == "task error"


def test_without_namespaces_there_is_no_scratch_folder() -> None:
    with open_sandbox("landlock + seccomp") as sandbox:
        outcome = score(sandbox, "tempfile.TemporaryFile()\nreturn 1.0")
    assert outcome.status == "task error"
    assert "No usable temporary directory" in outcome.detail
