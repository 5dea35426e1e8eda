"""Attacks on what is outside: files, secrets, other processes, the network.

Each is the body of a `score` method; a true value means that it succeeded. `t` describes bait.
"""

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
    "leave a file for the next task": """
path = os.path.join(t['folder'], 'note')
open(path, 'w').close(); return os.path.exists(path)""",
    "rename it": "os.rename(t['renamed'], t['renamed'] + '2'); return True",
    "truncate it while reading": """
os.close(os.open(t['scapegoat'], os.O_RDONLY | os.O_TRUNC)); return True""",
    "append to the standard library by descriptor": """
os.close(os.open(os.__file__, os.O_WRONLY | os.O_APPEND)); return True""",
    "truncate it": "os.truncate(t['scapegoat'], 0); return True",
    "change its owner": "os.chown(t['scapegoat'], os.getuid(), -1); return True",
    "follow a descriptor of the parent": """
return bool(os.readlink(f"/proc/{t['pid']}/fd/0"))""",
    "what the parent has open": "return bool(os.listdir(f\"/proc/{t['pid']}/fd\"))",
    "command line of the parent": """
return bool(open(f"/proc/{t['pid']}/cmdline", 'rb').read())""",
    "mounted file systems": "return bool(open('/proc/mounts').read())",
    "users of the machine": "import pwd; return pwd.getpwuid(0).pw_name == 'root'",
    "name servers": "return os.path.exists('/etc/hosts')",
    "another disk": "return bool(os.listdir('/sys'))",
    "shared memory files": "open('/dev/shm/acdc-attack', 'w').close(); return True",
    "a terminal": "return os.openpty() is not None",
    "a named pipe": "os.mkfifo(t['folder'] + '/fifo'); return True",
    "kill itself and what is beside it": "os.kill(os.getpid(), 0); return True",
    "kill its group": "os.killpg(os.getpgrp(), 0); return True",
    "broadcast a signal": "return ctypes.CDLL(None).kill(-1, 0) == 0",
    "reuse a passed descriptor": """
a, b = socket.socketpair()
socket.send_fds(a, [b'x'], [0]); return len(socket.recv_fds(b, 1, 1)[1]) == 1""",
    "a program without a file": """
fd = os.memfd_create('x'); os.write(fd, b'#!/bin/true')
return os.path.exists(f'/proc/self/fd/{fd}')""",
    "raise its own priority or lower it": "os.nice(1); return True",
    "pin itself to a core": "os.sched_setaffinity(0, {0}); return True",
    "an HTTP request": """
import urllib.request
try: urllib.request.urlopen(f"http://127.0.0.1:{t['tcp']}/", timeout=0.2)
except TimeoutError: return True""",
}

# Only a namespace hides or forbids these.
NEEDS_NAMESPACES = {"host name"}
# What a machine may forbid to everybody, or to its ordinary users.
MAY_FAIL = {
    "anonymous namespace",
    "append to the standard library",
    "append to the standard library by descriptor",
    "signal to the first process",
    "broadcast a signal",
    "a terminal",
    "change its owner",
}
