"""A SLURM cluster of one node on loopback, from Debian's or anyone's packages, for one test."""

import contextlib
import dataclasses
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "scontrol")

_START_S = 30.0
_TICK_S = 0.1
_CONFIG = """
ClusterName=acdc
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its credential has expired: two minutes, were it not said here.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
# JAX's processes meet at a port that follows from the job's number: not that of another cluster's.
FirstJobId={first_job}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={controller}
SlurmdPort={daemon}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Running daemons.

    Attributes:
        environment: makes SLURM's commands talk to them.
    """

    environment: Mapping[str, str]

    def command(self, *words: str) -> str:
        """What one of SLURM's commands prints; fails with what it complains of."""
        done = subprocess.run(
            words, env={**os.environ, **self.environment}, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job, such as JobState, ExitCode and Restarts."""
        words = self.command("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


def missing() -> list[str]:
    """Programs of SLURM that are not installed here."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Starts the daemons in an empty folder; they, and their jobs, are gone afterwards."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    controller, daemon = _free_ports()
    config = folder / "slurm.conf"
    config.write_text(
        _CONFIG.format(
            host=host,
            user=getpass.getuser(),
            folder=folder,
            controller=controller,
            daemon=daemon,
            first_job=secrets.randbelow(1_000_000) + 1,
        )
    )
    environment = {"SLURM_CONF": str(config)}
    found = Cluster(environment)
    with contextlib.ExitStack() as stack:

        def start(name: str, *words: str) -> None:
            stack.enter_context(_daemon(folder / f"{name}.log", environment, name, *words))

        files = ("key", "socket", "pid", "log", "seed")
        own = {name: folder / "munge" / name for name in files}
        options = [
            f"--{name}={path}" if name == "socket" else f"--{name}-file={path}"
            for name, path in own.items()
        ]
        start("munged", "--foreground", "--force", *options)
        _wait_for(own["socket"].exists)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        stack.callback(_end_jobs, found)
        _wait_for(lambda: "idle" in found.command("sinfo", "--noheader", "--format=%t"))
        yield found


def _end_jobs(running: Cluster) -> None:
    """Their processes too: those are no daemon's children for long."""
    running.command("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}")
    running.command("scancel", f"--user={getpass.getuser()}")
    _wait_for(lambda: not running.command("squeue", "--noheader"))


@contextlib.contextmanager
def _daemon(log: Path, environment: Mapping[str, str], program: str, *words: str) -> Iterator[None]:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert path is not None
    with log.open("w") as said:
        process = subprocess.Popen(
            [path, *words],
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield
            assert process.poll() is None, f"{program} ended: {log.read_text()[-2000:]}"
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _wait_for(condition: object) -> None:
    end = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(AssertionError):
            if condition():  # type: ignore[operator]
                return
        assert time.monotonic() < end, "SLURM did not do it in time"
        time.sleep(_TICK_S)
