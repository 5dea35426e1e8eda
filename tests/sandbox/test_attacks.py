"""Attacks on what is outside. Each has a control: the same code succeeds without a sandbox."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from acdc_jax.sandbox import Sandbox

from .helpers import family, open_sandbox

# The body of `score`; 1.0 (or a true value) means that the attack succeeded. `t` describes bait.
REACH_OUT = {
    "read a system file": "return 'root' in open('/etc/passwd').read()",
    "read a secret file": "return open(t['secret']).read() == 'hunter2'",
    "open it relative to a descriptor": """
d = os.open('/', os.O_PATH)
f = os.open('.' + t['secret'], os.O_RDONLY, dir_fd=d)
return os.read(f, 7) == b'hunter2'""",
    "list the home": "os.listdir(t['home']); return True",
    "list a folder": "return 'secret' in os.listdir(t['folder'])",
    "stat a secret and read it": "os.stat(t['secret']); return bool(open(t['secret']).read())",
    "write beside it": "open(t['folder'] + '/x', 'w').write('x'); return True",
    "write in the temporary folder": "open('/tmp/acdc-attack', 'w').write('x'); return True",
    "overwrite it": "open(t['scapegoat'], 'r+').write('x'); return True",
    "delete it": "os.stat(t['doomed']); os.unlink(t['doomed']); return True",
    "make a folder": "os.mkdir(t['folder'] + '/d'); return True",
    "symlink": "os.symlink(t['secret'], t['folder'] + '/l'); return True",
    "hard link": "os.link(t['secret'], t['folder'] + '/h'); return True",
    "chmod": "os.chmod(t['scapegoat'], 0o777); return True",
    "append to the standard library": "open(json.__file__, 'a').close(); return True",
    "environment secret": "return 'hunter2' in os.environ.values()",
    "environment through libc": """
f = ctypes.CDLL(None).getenv; f.restype = ctypes.c_char_p
return f(b'ACDC_TEST_SECRET') == b'hunter2'""",
    "/proc of itself": "return bool(open('/proc/self/maps').read())",
    "/proc of the parent": "return bool(open(f\"/proc/{t['pid']}/environ\", 'rb').read())",
    "memory of the parent": "open(f\"/proc/{t['pid']}/mem\", 'rb').close(); return True",
    "look for other processes": "return str(t['pid']) in os.listdir('/proc')",
    "signal to the parent": "os.kill(t['pid'], 0); return True",
    "signal to the first process": "os.kill(1, 0); return True",
    "signal by pidfd": "signal.pidfd_send_signal(os.pidfd_open(t['pid']), 0); return True",
    "TCP": "socket.create_connection(('127.0.0.1', t['tcp']), 1).close(); return True",
    "TCP listener": "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); return True",
    "TCP over IPv6": "socket.socket(socket.AF_INET6).close(); return True",
    "UDP": """
s = socket.socket(type=socket.SOCK_DGRAM)
s.sendto(b'x', ('127.0.0.1', t['udp'])); return True""",
    "unix socket": "s = socket.socket(1); s.connect(t['unix']); return True",
    "abstract unix socket": "s = socket.socket(1); s.connect('\\0' + t['abstract']); return True",
    "address on a socket pair": """
a, b = socket.socketpair(type=socket.SOCK_DGRAM)
a.sendto(b'x', t['datagram']); return True""",
    "netlink": "socket.socket(16, socket.SOCK_RAW).close(); return True",
    "name lookup": "return bool(socket.getaddrinfo('localhost', 80))",
    "fork": "p = os.fork()\nif p == 0: os._exit(0)\nos.waitpid(p, 0); return True",
    "vfork and exec": "return subprocess.run(['true']).returncode == 0",
    "posix_spawn": "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0); return True",
    "system": "return os.system('true') == 0",
    "multiprocessing": """
import multiprocessing
p = multiprocessing.get_context('fork').Process(target=int); p.start(); p.join(); return True""",
    "raw clone": """
p = ctypes.CDLL(None).syscall(220 if os.uname().machine == 'aarch64' else 56, 17, 0, 0, 0, 0)
if p == 0: os._exit(0)
return p > 0""",
    "memory file": "os.memfd_create('x'); return True",
    "anonymous namespace": """
if os.geteuid() == 0:
    return ctypes.CDLL(None).unshare(0x20000) == 0
return ctypes.CDLL(None).unshare(0x10000000) == 0""",
    "SysV shared memory": "return ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0",
    "change its own process name": "return ctypes.CDLL(None).prctl(15, b'init', 0, 0, 0) == 0",
    "raise a limit back": """
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, before); return True""",
    "host name": "return os.uname().nodename == t['host']",
    "installed packages": """
roots = [p for p in t['site'] if os.path.isdir(p)]
return any('pytest' in os.listdir(p) for p in roots)""",
}
TOP = "import ctypes, json, os, resource, signal, socket, subprocess"
# Why one has a different expectation without namespaces or without Landlock.
NEEDS_NAMESPACES = {"host name"}

_CONTROL = """
import json, sys
attacks, bait = json.load(sys.stdin)
results = {}
for name, source in attacks.items():
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
    """Files, sockets and processes outside the sandbox that an attacker would like to reach."""
    folder = tmp_path_factory.mktemp("bait")
    for name in ("secret", "scapegoat", "doomed"):
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
    """Every tier; opened after the bait, so that the secret was there to be inherited."""
    with open_sandbox(request.param) as opened:
        yield opened


@pytest.mark.parametrize("name", REACH_OUT)
def test_attack_is_stopped(name: str, tiered: Sandbox, bait: dict[str, object]) -> None:
    if name in NEEDS_NAMESPACES and not tiered.tier.startswith(("full", "namespaces")):
        pytest.skip("only a namespace hides this")
    (outcome,) = tiered.score(family(REACH_OUT[name], TOP), [(bait, "")]).result()  # type: ignore[list-item]
    stopped = outcome.status == "task error" or outcome.score == 0.0
    assert stopped, outcome


def test_every_attack_works_without_the_sandbox(bait: dict[str, object]) -> None:
    attacks = {name: family(body, TOP) for name, body in REACH_OUT.items()}
    ran = subprocess.run(
        [sys.executable, "-c", _CONTROL],
        input=json.dumps([attacks, bait]),
        capture_output=True,
        text=True,
        check=True,
    )
    results = json.loads(ran.stdout)
    Path("/tmp/acdc-attack").unlink(missing_ok=True)
    # A machine may forbid some of these to everybody; what a test runner is surely allowed to do
    # must have worked.
    may_fail = {
        "anonymous namespace",
        "append to the standard library",
        "signal to the first process",
    }
    failed = {n: r for n, r in results.items() if r is not True and n not in may_fail}
    assert not failed
