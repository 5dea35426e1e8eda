"""Launchers: bubblewrap is run, the containers' command lines are compared as text."""

import shutil
from pathlib import Path

import pytest

from acdc_jax.sandbox import Limits, Outcome, Sandbox, SandboxError, launchers
from acdc_jax.sandbox.launchers import Launch

from .helpers import LIMITS, family
from .test_sandbox import descendants, wait_until

LAUNCH = Launch(["/opt/py/bin/python3", "-c", "run"], {"TZ": "UTC"}, ["/opt/py"], "/tmp/acdc-x")


@pytest.fixture
def bubblewrap() -> launchers.Launcher:
    """Return bubblewrap; skip the test if it is not installed or may not create namespaces."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    return launchers.parse("bubblewrap")


def test_bubblewrap(bubblewrap: launchers.Launcher) -> None:
    source = family("import numpy\nreturn float(numpy.ones(4).sum() / 4)")
    with Sandbox(2, LIMITS, launcher=bubblewrap) as sandbox:
        assert sandbox.tier in ("full", "landlock + seccomp")
        futures = [sandbox.score(source, [(None, "")]) for _ in range(6)]
        assert [f.result() for f in futures] == [[Outcome("score", 1.0)]] * 6
        for attack in ("open('/etc/hostname')", "import os; os.listdir('/root')"):
            assert sandbox.score(family(attack), [(None, "")]).result()[0].status == "task error"
        (hang,) = sandbox.score(family("while True: pass"), [(None, "")]).result()
        assert hang.status == "timeout"
        zygotes = [z for worker in sandbox._workers.workers for z in worker._zygotes.values()]
        inside = {p for z in zygotes for p in descendants(z.process.pid)}
        assert inside
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in inside))


def test_a_launcher_that_refuses_namespaces(
    monkeypatch: pytest.MonkeyPatch, bubblewrap: launchers.Launcher
) -> None:
    """As in a container, the next tier is used, and the reason is recorded."""
    options = launchers._OPTIONS["bubblewrap"]
    monkeypatch.setitem(
        launchers._OPTIONS,
        "bubblewrap",
        lambda image, launch: ["--unshare-user", "--disable-userns", *options(image, launch)],
    )
    with Sandbox(1, LIMITS, launcher=bubblewrap) as sandbox:
        assert sandbox.tier == "landlock + seccomp"
        assert sandbox.isolation.missing[0].startswith("full: ")
        assert sandbox.score(family("return 1"), [(None, "")]).result()[0].score == 1.0


def test_a_launcher_that_fails_is_quoted(
    monkeypatch: pytest.MonkeyPatch, bubblewrap: launchers.Launcher
) -> None:
    monkeypatch.setitem(launchers._OPTIONS, "bubblewrap", lambda image, launch: ["--nonsense"])
    with pytest.raises(SandboxError, match="bwrap: Unknown option --nonsense"):
        Sandbox(1, Limits(), launcher=bubblewrap)


def test_a_launcher_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxError, match="no docker on the PATH"):
        Sandbox(1, Limits(), launcher=launchers.parse("runsc:debian"))


@pytest.mark.parametrize("name", ["apptainer", "podman", "docker", "runsc"])
def test_containers_have_no_network_and_see_little(name: str) -> None:
    launcher = launchers.parse(f"{name}:registry.example/py:3")
    assert str(launcher) == f"{name}:registry.example/py:3"
    words = launcher(LAUNCH)
    assert words[0] == ("docker" if name == "runsc" else name)
    image = words.index("registry.example/py:3")
    assert words[image + 1 :] == ["/usr/bin/env", "-i", "TZ=UTC", *LAUNCH.command]
    options = " ".join(words[:image])
    assert "none" in options
    assert "/opt/py:/opt/py:ro" in options
    assert "/tmp/acdc-x:/tmp/acdc-x" in options
    assert ("--runtime=runsc" in options) == (name == "runsc")
    if name != "apptainer":
        for strict in ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"):
            assert strict in options


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("firejail", "choose bubblewrap, or one of apptainer, podman, docker, runsc"),
        ("docker", "name an image"),
        ("docker:", "name an image"),
        ("bubblewrap:debian", "takes no image"),
    ],
)
def test_nonsense_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        launchers.parse(text)
