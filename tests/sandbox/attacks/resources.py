"""Attacks that hang, hoard, flood or crash: bodies of a `score` method.

For each, the status that it must end with, and what it does where nobody stops it:

* "hangs": it is still running a second later;
* "hoards": it takes more memory, files or descriptors than a task is allowed;
* "dies": the process is gone, or an exception that is no `Exception` has left the function;
* "raises": an ordinary exception. Not an attack by itself, but it must not become a score.
"""

from typing import NamedTuple


class Death(NamedTuple):
    """What an attack does, how it must end, and how it ends without a sandbox."""

    body: str
    status: str
    control: str


_TASK, _TIME, _MEMORY = "task error", "timeout", "memory"

DEATHS = {
    # the clock
    "infinite loop": Death("while True: pass", _TIME, "hangs"),
    "sleep": Death("import time; time.sleep(60)", _TIME, "hangs"),
    "sleep in C": Death("import ctypes; ctypes.CDLL(None).sleep(60)", _TIME, "hangs"),
    "wait on oneself": Death("import threading; threading.Event().wait()", _TIME, "hangs"),
    "read what never comes": Death("import os; os.read(os.pipe()[0], 1)", _TIME, "hangs"),
    "ignored signals": Death(
        "import signal\n"
        "for n in (1, 2, 3, 6, 13, 14, 15, 24, 30): signal.signal(n, signal.SIG_IGN)\n"
        "while True: pass",
        _TIME,
        "hangs",
    ),
    "swallowed exceptions": Death(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        _TIME,
        "hangs",
    ),
    "catastrophic regex": Death("import re; re.match('(a+)+$', 'a' * 40 + 'b')", _TIME, "hangs"),
    "huge power": Death("return 9 ** 9 ** 9", _TIME, "hangs"),
    "huge factorial": Death("import math; return math.factorial(10 ** 9)", _TIME, "hangs"),
    "loop in C": Death("return sum(range(10 ** 15))", _TIME, "hangs"),
    "endless iterator": Death("import itertools; return max(itertools.count())", _TIME, "hangs"),
    "threads that spin": Death(
        "import _thread\n"
        "def spin():\n    while True: pass\n"
        "for _ in range(4): _thread.start_new_thread(spin, ())\n"
        "spin()",
        _TIME,
        "hangs",
    ),
    "an exit that waits": Death(
        "import sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "time.sleep(60)",
        _TIME,
        "hangs",
    ),
    "numpy that never ends": Death(
        "import numpy as np\na = np.ones((300, 300))\nwhile True: a = a @ a / a.size",
        _TIME,
        "hangs",
    ),
    # memory
    "memory bomb of lists": Death(
        "x = []\nwhile True: x.append(bytearray(1 << 20))", _MEMORY, "hoards"
    ),
    "one huge allocation": Death("return len(bytearray(1 << 30))", _MEMORY, "hoards"),
    "doubling string": Death("x = 'x'\nwhile True: x += x", _MEMORY, "hoards"),
    "memory bomb by mmap": Death(
        "import mmap\nx = [mmap.mmap(-1, 1 << 24) for _ in range(1 << 16)]", _TASK, "hoards"
    ),
    "memory bomb of numpy": Death(
        "import numpy as np\nx = []\nwhile True: x.append(np.ones(1 << 20))", _MEMORY, "hoards"
    ),
    "big integer": Death("return len(bin(1 << (1 << 33)))", _MEMORY, "hoards"),
    "huge format": Death("return len('%*d' % (1 << 30, 1))", _MEMORY, "hoards"),
    "wide list": Death("return len([0] * (1 << 28))", _MEMORY, "hoards"),
    "zip bomb": Death(
        "import zlib\n"
        "c = zlib.compressobj(9, wbits=-15)\n"
        "block = c.compress(bytes(1 << 20)) + c.flush(zlib.Z_FULL_FLUSH)\n"
        "return len(zlib.decompress(block * 900, wbits=-15))",
        _MEMORY,
        "hoards",
    ),
    "xz bomb": Death(
        "import lzma\nreturn len(lzma.decompress(lzma.compress(bytes(4 << 20), preset=0) * 200))",
        _MEMORY,
        "hoards",
    ),
    "JSON bomb": Death(
        "import json\nreturn len(json.loads('[' + '[[],[],[]],' * 1_000_000 + '0]'))",
        _MEMORY,
        "hoards",
    ),
    "deep JSON": Death("import json; return json.loads('[' * 10 ** 5)", _TASK, "raises"),
    "entity bomb": Death(
        "x = 'ha'\nfor _ in range(30): x = x.replace('a', 'a' * 18)\nreturn 0",
        _MEMORY,
        "hoards",
    ),
    # files and descriptors
    "file bomb": Death(
        "import os, tempfile\n"
        "d = tempfile.mkdtemp()\n"
        "for i in range(64):\n    with open(f'{d}/{i}', 'wb') as f: f.write(bytes(1 << 20))",
        _TASK,
        "hoards",
    ),
    "one large file": Death(
        "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(bytes(1 << 25))",
        _TASK,
        "hoards",
    ),
    "sparse file": Death(
        "import tempfile\nwith tempfile.TemporaryFile() as f: f.truncate(1 << 33)", _TASK, "hoards"
    ),
    "name bomb": Death(
        "import os, tempfile\n"
        "d = tempfile.mkdtemp()\n"
        "for i in range(2000): os.close(os.open(f'{d}/{i}', os.O_CREAT | os.O_WRONLY))",
        _TASK,
        "hoards",
    ),
    "folder bomb": Death(
        "import os, tempfile\n"
        "os.chdir(tempfile.mkdtemp())\n"
        "for i in range(600): os.mkdir('d'); os.chdir('d')",
        _TASK,
        "hoards",
    ),
    "descriptor bomb": Death(
        "import os\nx = [os.open('/dev/null', 0) for _ in range(900)]", _TASK, "hoards"
    ),
    "pipe hoard": Death("import os\nx = [os.pipe() for _ in range(450)]", _TASK, "hoards"),
    "socket hoard": Death(
        "import socket\nx = [socket.socketpair() for _ in range(450)]", _TASK, "hoards"
    ),
    "memory file": Death(
        "import os\nos.write(os.memfd_create('x'), bytes(1 << 25))", _TASK, "hoards"
    ),
    # processes
    "fork bomb": Death("import os\nif os.fork() == 0: os._exit(0)", _TASK, "hoards"),
    "thread bomb": Death(
        "import threading, time\n"
        "threading.stack_size(1 << 16)\n"
        "for _ in range(200): threading.Thread(target=time.sleep, args=[0.5]).start()",
        _TASK,
        "hoards",
    ),
    # the process itself
    "os._exit": Death("import os; os._exit(0)", _TASK, "dies"),
    "exit status of a failed start": Death("import os; os._exit(70)", _TASK, "dies"),
    "segmentation fault": Death("import ctypes; ctypes.string_at(0)", _TASK, "dies"),
    "illegal instruction": Death(
        "import ctypes, mmap, os\n"
        "m = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(b'\\x0f\\x0b' if os.uname().machine == 'x86_64' else bytes(4))\n"
        "ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
        _TASK,
        "dies",
    ),
    "abort": Death("import os; os.abort()", _TASK, "dies"),
    "double free": Death(
        "import ctypes\nc = ctypes.CDLL(None)\nc.malloc.restype = ctypes.c_void_p\n"
        "p = ctypes.c_void_p(c.malloc(1 << 20))\nc.free(p); c.free(p)\nctypes.string_at(p, 1)",
        _TASK,
        "dies",
    ),
    "recursion without a limit": Death(
        "import sys\nsys.setrecursionlimit(10 ** 9)\n"
        "class R:\n    def __repr__(self): return repr(self)\n"
        "return repr(R())",
        _TASK,
        "dies",
    ),
    "recursion": Death("f = lambda: f()\nreturn f()", _TASK, "raises"),
    "SystemExit": Death("raise SystemExit", _TASK, "dies"),
    "KeyboardInterrupt": Death("raise KeyboardInterrupt", _TASK, "dies"),
    "GeneratorExit": Death("raise GeneratorExit", _TASK, "dies"),
    "an exception of its own kind": Death(
        "class E(BaseException): pass\nraise E('1.0')", _TASK, "dies"
    ),
    "exit through atexit": Death(
        "import atexit, sys; atexit.register(print); sys.exit(0)", _TASK, "dies"
    ),
    "unprintable exception": Death(
        "class E(Exception):\n    def __str__(self): raise KeyboardInterrupt\nraise E",
        _TASK,
        "raises",
    ),
    "exception of a megabyte": Death("raise ValueError('x' * (1 << 20))", _TASK, "raises"),
    "surrogates in an exception": Death("raise ValueError('\\ud800')", _TASK, "raises"),
    "control characters in an exception": Death(
        "raise ValueError('\\x1b[2J\\x07\\r\\n')", _TASK, "raises"
    ),
    "closed descriptors": Death("import os\nos.closerange(0, 64); return 1.0", _TASK, "dies"),
}
CONTROL = """
import json, os, resource, sys, threading
body, scratch = json.loads(sys.argv[1]), sys.argv[2]
os.environ["TMPDIR"] = scratch
os.chdir(scratch)
limits = {"AS": 320 << 20, "CPU": 5, "FSIZE": 1 << 34, "NOFILE": 1024, "CORE": 0}
for name, most in limits.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
space = {}
exec("def score(t, s):\\n" + "".join(f"    {line}\\n" for line in body.splitlines()), space)
channel = os.dup(1)
os.write(channel, b"started ")
try:
    space["score"](None, "")
    ended = "returned"
except Exception as error:
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == 12
    ended = "hoarded" if no_memory else "raised"
os.write(channel, ended.encode())
os._exit(0)
"""
