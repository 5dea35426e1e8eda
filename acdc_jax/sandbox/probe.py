"""Find the strongest isolation that works on this machine, by trying it.

Kernel versions and sysctls tell little, because containers, security modules and configuration
also matter. So a real zygote is started with the strongest isolation and must stop a set of
attacks. If that fails, the next tier is tried.
"""

import json
import sys
from dataclasses import dataclass

from acdc_jax.sandbox.interpreter import Interpreter
from acdc_jax.sandbox.jail import seccomp, wire
from acdc_jax.sandbox.jail.syscalls import MACHINE
from acdc_jax.sandbox.launchers import Launcher
from acdc_jax.sandbox.outcomes import IsolationError, Limits, SandboxError
from acdc_jax.sandbox.parse_reply import score_outcomes
from acdc_jax.sandbox.zygote import Tier, Zygote, ZygoteLost

TIERS = (
    Tier("full", namespaces=True, landlock=True, seccomp=True),
    Tier("landlock + seccomp", namespaces=False, landlock=True, seccomp=True),
    Tier("namespaces + seccomp", namespaces=True, landlock=False, seccomp=True),
)
UNSAFE = Tier("unsafe", namespaces=False, landlock=False, seccomp=False)

_REMEDIES = (
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns), use Linux 5.13 or later with Landlock and "
    "seccomp, or start zygotes in a launcher such as bubblewrap or a container"
)

# An attack that is stopped scores 1.0.
_ATTACKS = {
    "a fork": "os.fork()",
    "a program": "os.execv('/bin/true', ['true'])",
    "a TCP socket": "socket.create_connection(('127.0.0.1', 9), 0.1)",
    "a unix socket": "socket.socket(socket.AF_UNIX)",
    "reading /etc/passwd": "open('/etc/passwd').read()",
    "reading /proc": "open('/proc/self/environ').read()",
    "listing /home": "os.listdir('/home')",
    "writing /tmp": "open('/tmp/acdc-self-test', 'w')",
    "a signal to the parent": "os.kill(os.getppid(), 0)",
    "a new namespace": "if ctypes.CDLL(None).unshare(0x10000000): raise OSError",
}
_SELF_TEST = """
import ctypes, os, socket
class TaskFamily:
    def score(t, submission):
        try:
            exec(t)
        except OSError:
            return 1.0
        return 0.0
"""


@dataclass(frozen=True)
class ProbeResult:
    """The isolation that works on this machine.

    Attributes:
        tier: The strongest tier that works.
        missing: Why each stronger tier does not work, one line each.
        stopped: Names of the attacks, all of which were stopped; empty in the tier "unsafe".
    """

    tier: Tier
    missing: tuple[str, ...]
    stopped: tuple[str, ...]


def probe(
    interpreter: Interpreter, launcher: Launcher | None = None, *, allow_unsafe: bool
) -> ProbeResult:
    """Find the strongest tier that works on this machine.

    Args:
        interpreter: Runs the zygotes.
        launcher: Starts the zygotes, if any.
        allow_unsafe: Return the tier "unsafe" if no other tier works.

    Raises:
        IsolationError: No tier works, and `allow_unsafe` is not set.
        SandboxError: This is not Linux, the processor is not supported, or the launcher is not
            installed.
    """
    if sys.platform != "linux":
        raise SandboxError(
            f"the sandbox needs Linux (this is {sys.platform}): run in a Linux container or VM"
        )
    if MACHINE not in seccomp.MACHINES:
        raise SandboxError(
            f"the sandbox supports x86-64 and aarch64, not {MACHINE}; use another machine"
        )
    if launcher is not None:
        launcher.check()
    missing: list[str] = []
    for tier in TIERS:
        failure = try_tier(interpreter, tier, launcher)
        if failure is None:
            return ProbeResult(tier, tuple(missing), tuple(_ATTACKS))
        missing.append(f"{tier.name}: {failure}")
    if not allow_unsafe:
        raise IsolationError(
            f"this machine cannot isolate untrusted task code ({'; '.join(missing)}): {_REMEDIES}"
        )
    return ProbeResult(UNSAFE, tuple(missing), ())


def try_tier(interpreter: Interpreter, tier: Tier, launcher: Launcher | None = None) -> str | None:
    """Run the attacks in a tier; return what went wrong, or None if all were stopped."""
    items = [[code, ""] for code in _ATTACKS.values()]
    limits = Limits()  # not the user's limits: this tests the machine, not a tight budget
    try:
        zygote = Zygote(interpreter, "stdlib", tier, limits, launcher)
    except SandboxError as error:
        return str(error)
    try:
        reply = zygote.call(
            wire.SCORE, json.dumps([_SELF_TEST, items]).encode(), len(items), limits
        )
        outcomes = score_outcomes(reply, len(items), limits)
    except ZygoteLost as error:
        return str(error)
    finally:
        zygote.close()
    for name, outcome in zip(_ATTACKS, outcomes, strict=False):
        if outcome.score != 1.0:
            return f"{name} was not stopped ({outcome.detail or 'it succeeded'})"
    return None if len(outcomes) == len(items) else "the self-test did not finish"
