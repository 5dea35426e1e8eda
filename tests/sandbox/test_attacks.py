"""Attacks on the outside. As a control, the same code succeeds without a sandbox."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from acdc_jax.sandbox import Sandbox

from .attacks import kernel, outside
from .attacks.outside import NEEDS_NAMESPACES, REACH_OUT
from .attacks.resources import DEATHS
from .helpers import LIMITS, family, open_sandbox
from .test_benign import SCORERS

TOP = "import ctypes, json, os, resource, signal, socket, subprocess"
ATTACKS = {name: family(body, TOP) for name, body in REACH_OUT.items()}
ARM = os.uname().machine == "aarch64"

_CONTROL = """
import json, sys
attacks = json.load(sys.stdin)
results = {}
for name, (source, bait) in attacks.items():
    space = {}
    exec(source, space)
    try:
        results[name] = bool(space["TaskFamily"].score(bait, ""))
    except BaseException as error:
        results[name] = repr(error)
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def bait(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Files, sockets and processes outside the sandbox, for attackers to reach."""
    folder = tmp_path_factory.mktemp("bait")
    for name in ("secret", "scapegoat", "doomed", "renamed"):
        (folder / name).write_text("hunter2")
    abstract = f"acdc-test-{os.getpid()}"
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    unix, hidden = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    unix.bind(str(folder / "unix"))
    datagram.bind(str(folder / "datagram"))
    hidden.bind("\0" + abstract)
    for server in (unix, hidden):
        server.listen(8)
    os.environ["ACDC_TEST_SECRET"] = "hunter2"
    yield {
        "pid": os.getpid(),
        "secret": str(folder / "secret"),
        "scapegoat": str(folder / "scapegoat"),
        "doomed": str(folder / "doomed"),
        "renamed": str(folder / "renamed"),
        "folder": str(folder),
        "home": str(Path.home()),
        "tcp": tcp.getsockname()[1],
        "udp": udp.getsockname()[1],
        "unix": str(folder / "unix"),
        "datagram": str(folder / "datagram"),
        "abstract": abstract,
        "host": os.uname().nodename,
        "site": [p for p in sys.path if p.endswith("site-packages")],
    }
    del os.environ["ACDC_TEST_SECRET"]
    for opened in (tcp, udp, unix, hidden, datagram):
        opened.close()


@pytest.fixture(scope="module", params=["full", "landlock + seccomp", "namespaces + seccomp"])
def tiered(request: pytest.FixtureRequest, bait: dict[str, object]) -> Iterator[Sandbox]:
    """Return a sandbox of each tier, opened after the bait, so that it could inherit the secret."""
    with open_sandbox(request.param) as opened:
        yield opened


@pytest.mark.parametrize("name", REACH_OUT)
def test_attack_is_stopped(name: str, tiered: Sandbox, bait: dict[str, object]) -> None:
    if name in NEEDS_NAMESPACES and not tiered.tier.startswith(("full", "namespaces")):
        pytest.skip("only a namespace hides this")
    (outcome,) = tiered.score(ATTACKS[name], [(bait, "")]).result()  # type: ignore[list-item]
    stopped = outcome.status == "task error" or outcome.score == 0.0
    assert stopped, outcome


def call(name: str) -> list[object]:
    """Return number and arguments of a raw system call on this machine."""
    x86, arm, arguments = kernel.CALLS[name]
    return [arm if ARM else x86, list(arguments)]


@pytest.mark.parametrize("name", kernel.CALLS)
def test_system_call_is_refused(name: str, tiered: Sandbox) -> None:
    (outcome,) = tiered.score(family(kernel.BODY, TOP), [(call(name), "")]).result()  # type: ignore[list-item]
    assert (outcome.status, outcome.score) == ("task error", None), outcome
    assert "bool" in outcome.detail  # the call returned ...
    asked = family(kernel.BODY.replace("return", "return 1.0 if") + " else 0.0", TOP)
    (outcome,) = tiered.score(asked, [(call(name), "")]).result()  # type: ignore[list-item]
    assert outcome.score == 0.0, outcome  # ... and was refused


def test_every_attack_works_without_the_sandbox(bait: dict[str, object]) -> None:
    calls = {f"call {n}": [family(kernel.BODY, TOP), call(n)] for n in kernel.CALLS}
    attacks = {name: [source, bait] for name, source in ATTACKS.items()} | calls
    ran = subprocess.run(
        [sys.executable, "-c", _CONTROL],
        input=json.dumps(attacks),
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(ran.stdout)
    for left in ("/tmp/acdc-attack", "/dev/shm/acdc-attack"):
        Path(left).unlink(missing_ok=True)
    may_fail = outside.MAY_FAIL | {f"call {name}" for name in kernel.MAY_FAIL}
    if os.geteuid() != 0:  # these need root
        may_fail |= set(calls)
    failed = {n: r for n, r in results.items() if r is not True and n not in may_fail}
    assert not failed


_AS_A_USER = """
import json, os, sys
os.setgroups([]); os.setresgid(12345, 12345, 12345); os.setresuid(12345, 12345, 12345)
from acdc_jax.sandbox import Limits, Sandbox, probe
attacks, tier, limits = json.load(sys.stdin)
probe.TIERS = tuple(t for t in probe.TIERS if t.name == tier)
with Sandbox(4, Limits(**limits)) as sandbox:
    futures = {name: sandbox.score(source, [(t, "42")]) for name, (source, t) in attacks.items()}
    results = {name: future.result()[0] for name, future in futures.items()}
print(json.dumps({name: [r.status, r.score, r.detail] for name, r in results.items()}))
"""


@pytest.mark.parametrize("tier", ["full", "landlock + seccomp", "namespaces + seccomp"])
def test_attacks_are_stopped_when_an_ordinary_user_runs_the_sandbox(
    tier: str, bait: dict[str, object], user_python: tuple[str, str]
) -> None:
    asked = family(kernel.BODY.replace("return", "return 1.0 if") + " else 0.0", TOP)
    attacks = {name: [source, bait] for name, source in ATTACKS.items()}
    attacks |= {name: [asked, call(name)] for name in kernel.CALLS}
    honest = {f"honest {name}": [family(body), None] for name, body in SCORERS.items()}
    honest = {name: job for name, job in honest.items() if "import numpy" not in job[0]}
    attacks |= {name: job for name, job in honest.items() if "import sympy" not in job[0]}
    if tier == "landlock + seccomp":
        attacks = {name: attack for name, attack in attacks.items() if name not in NEEDS_NAMESPACES}
    attacks |= {
        name: [family(death.body), None]
        for name, death in DEATHS.items()
        if "numpy" not in name and death.control != "raises"
    }
    python, path = user_python
    ran = subprocess.run(
        [python, "-c", _AS_A_USER],
        input=json.dumps([attacks, tier, dataclasses.asdict(LIMITS)]),
        capture_output=True,
        text=True,
        env={"PYTHONPATH": path, "ACDC_TEST_SECRET": "hunter2"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)
    assert len(results) == len(attacks)
    scored = {name: results.pop(name) for name in attacks if name.startswith("honest ")}
    assert len(scored) >= 30
    assert {name: r for name, r in scored.items() if r != ["score", 1.0, ""]} == {}
    ended = ("task error", "timeout", "memory")
    through = {n: r for n, r in results.items() if r[0] not in ended and r[1] != 0.0}
    assert not through
