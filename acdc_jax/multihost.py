"""Several processes of one run, and the messages between them.

All processes run the same program and make the same decisions. Each sends its results to the
others as JSON, through the key-value store of JAX's coordination service, which the first
process serves. Weights never travel. Every process makes the same exchanges in the same order. With
one process, every function here returns at once. What an exchange costs: launch/README.md.

Threads: a daemon thread "peers" writes a sign of life twice a second and reads those of the others.
If one stops, it prints a line and calls `os._exit(1)`: the main thread may be inside XLA or wait
for a message that never comes, and nothing interrupts it there. The run directory is valid at every
instant, so only the generation under way is lost.
"""

import json
import os
import socket
import threading
import time
from typing import Any, ClassVar

import jax

from acdc_jax.errors import AcdcError, ConfigError, one_line
from acdc_jax.private_apis import coordination
from acdc_jax.streams import print_line

_TICK_S = 0.5  # between signs of life
_REMEDY = "the same command resumes from the last commit"
_GOODBYE = "bye"
_ALL = "all"
_PIECE = 2**20  # bytes per message: far below any limit of the service
_WAIT_MS = 1_000  # of one attempt to read, so that signals are handled in between


class _Connection:
    """This process's connection to the others.

    Attributes:
        client: Client of the key-value store; None while this process is alone.
        me: Number of this process.
        count: Number of processes.
        exchanges: Number of exchanges so far.
        published: Keys under which this process has written a value.
        last_word: Held while a sign of life is written, so that none follows the goodbye.
    """

    client: Any = None
    me = 0
    count = 1
    exchanges = 0
    published: ClassVar[list[str]] = []
    last_word = threading.Lock()


def initialise(
    coordinator: str | None,
    num_processes: int,
    process_id: int,
    detect: bool,
    timeout_s: float,
) -> None:
    """Join the processes of a run. Must come before any use of a device.

    Args:
        coordinator: host:port at which the first process listens; None to detect it.
        num_processes: Number of processes; 1 for a process on its own, unless `detect`.
        process_id: Number of this process.
        detect: Let JAX find out all three from the environment (SLURM, Cloud TPU, Open MPI).
        timeout_s: Silence after which a process counts as dead. The others then end with one line,
            within another second; at once if it was the first, which served the messages.

    Raises:
        ConfigError: The environment does not name the processes.
        AcdcError: The other processes do not connect.
    """
    if (not detect and num_processes == 1) or _Connection.client is not None:
        return
    # Otherwise a dead peer aborts this process from within C++. `_watch` ends it with a line.
    jax.config.update("jax_enable_recoverability", True)
    # Otherwise JAX replaces the handler of SIGTERM that `preemption.py` installs.
    jax.config.update("jax_enable_preemption_service", False)
    numbers: dict[str, Any] = (
        {} if detect else {"num_processes": num_processes, "process_id": process_id}
    )
    if coordinator is not None:
        _check_address(coordinator, listens=process_id == 0)
    try:
        jax.distributed.initialize(
            coordinator,
            **numbers,
            cluster_detection_method=None if detect else "deactivate",
            heartbeat_timeout_seconds=max(int(timeout_s), 1),
            shutdown_timeout_seconds=max(int(timeout_s), 1),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"--distributed: the environment does not name the processes ({error}); "
            "give --coordinator, --num_processes and --process_id"
        ) from None
    except RuntimeError as error:
        reason = one_line(error)
        raise AcdcError(
            f"--coordinator={coordinator}: the processes cannot connect ({reason}); start all "
            "of them with the same address"
        ) from None
    _Connection.client, _Connection.me, _Connection.count = coordination()
    threading.Thread(target=_watch, args=(timeout_s,), name="peers", daemon=True).start()


def _check_address(coordinator: str, *, listens: bool) -> None:
    """Refuse a coordinator that JAX would wait for in vain, or abort this process for.

    Args:
        coordinator: host:port.
        listens: Whether this process will listen there.

    Raises:
        AcdcError: There is no such host, or another program listens at that port.
    """
    host, _, port = coordinator.rpartition(":")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, OverflowError) as error:
        raise AcdcError(
            f"--coordinator={coordinator}: there is no such host or port ({error}); give the "
            "address of the first process"
        ) from None
    if not listens:
        return
    family, everywhere = (socket.AF_INET6, "::") if _has_ipv6() else (socket.AF_INET, "")
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a killed run left
        if family == socket.AF_INET6:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            trial.bind((everywhere, int(port)))
        except OSError as error:
            raise AcdcError(
                f"--coordinator={coordinator}: cannot listen at port {port} of this machine "
                f"({error.strerror}); give all processes another port"
            ) from None


def _has_ipv6() -> bool:
    """Return whether this machine has IPv6 addresses, as JAX's service finds out."""
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


def is_first() -> bool:
    """Return whether this process talks to the scientist and writes the run directory."""
    return _Connection.me == 0


def all_gather(value: Any) -> list[Any]:
    """Return every process's value, by process. Values are JSON; NaN and infinities survive.

    The first process reads each value, and the others read what it has collected: 2P messages for
    P processes, not P².
    """
    if _Connection.client is None:
        return [value]
    number = _next_exchange()
    _publish(_key(number, _Connection.me), value)
    if is_first():
        values = [_read(_key(number, process)) for process in range(_Connection.count)]
        _publish(_key(number, _ALL), values)
    else:
        values = _read(_key(number, _ALL))
    # All processes are at this exchange, so they have read what was published before it.
    for old in [key for key in _Connection.published if _number(key) < number]:
        _Connection.client.key_value_delete(f"{old}/")
        _Connection.published.remove(old)
    return values


def gather(value: Any) -> list[Any]:
    """Return every process's value, by process, in the first one; an empty list in the others."""
    if _Connection.client is None:
        return [value]
    number = _next_exchange()
    _publish(_key(number, _Connection.me), value)
    if not is_first():
        return []
    return [_read(_key(number, process)) for process in range(_Connection.count)]


def broadcast(value: Any) -> Any:
    """Return the first process's value; those of the others are ignored."""
    if _Connection.client is None:
        return value
    key = _key(_next_exchange(), 0)
    if is_first():
        _publish(key, value)
    return _read(key)


def barrier() -> None:
    """Wait for every process to call this."""
    if _Connection.client is not None:
        all_gather(None)


def assert_equal(what: str, value: Any) -> None:
    """Raise ConfigError, in every process, if processes have different values."""
    values = all_gather(value)
    for process, other in enumerate(values):
        if other != values[0]:
            different = other
            if isinstance(other, dict):
                different = {k: v for k, v in other.items() if values[0].get(k) != v}
            raise ConfigError(
                f"{what} of process {process} differ from process 0's ({different}); "
                "start every process with the same flags"
            )


def shutdown(problem: str = "") -> None:
    """Leave the other processes, and shut JAX's service down.

    Args:
        problem: Why this process ends before the others. They print it and end too. Without one,
            this waits until every process has come here.
    """
    if (client := _Connection.client) is None:
        return
    if problem:
        with _Connection.last_word:
            _Connection.client = None
            client.key_value_set(_sign(_Connection.me), f"!{problem}", True)
        time.sleep(4 * _TICK_S)  # the first process serves the store: let the others read it
        return
    barrier()
    with _Connection.last_word:
        _Connection.client = None
        client.key_value_set(_sign(_Connection.me), _GOODBYE, True)
    if is_first():
        # Returns when no other process is connected: the end of the service would abort it.
        client.get_live_nodes(list(range(_Connection.count)))
    jax.distributed.shutdown()


def _next_exchange() -> int:
    """Return the number of the exchange that begins."""
    _Connection.exchanges += 1
    return _Connection.exchanges


def _publish(key: str, value: Any) -> None:
    """Write a value in pieces. The first piece holds their number."""
    data = json.dumps(value).encode()
    pieces = [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]
    for i, piece in enumerate(pieces[1:], 1):
        _Connection.client.key_value_set_bytes(f"{key}/{i}", piece)
    head = len(pieces).to_bytes(4, "big") + pieces[0]
    _Connection.client.key_value_set_bytes(f"{key}/0", head)
    _Connection.published.append(key)


def _read(key: str) -> Any:
    """Wait for a value, and return it."""
    head = _read_piece(f"{key}/0")
    count = int.from_bytes(head[:4], "big")
    rest = [_read_piece(f"{key}/{i}") for i in range(1, count)]
    return json.loads(b"".join([head[4:], *rest]))


def _read_piece(key: str) -> bytes:
    """Wait for a piece. `_watch` ends this process if the writer is gone."""
    while True:
        try:
            value: bytes = _Connection.client.blocking_key_value_get_bytes(key, _WAIT_MS)
            return value
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise AcdcError(
                    f"the first process is gone ({one_line(error)}); {_REMEDY}"
                ) from None


def _watch(timeout_s: float) -> None:
    """Write signs of life, and end this process when those of another one stop."""
    tick = 0
    last_signs: dict[int, tuple[str, float]] = {}  # process → its sign, and when it changed
    while (client := _Connection.client) is not None:
        tick += 1
        try:
            with _Connection.last_word:
                if _Connection.client is not None:  # has not said goodbye meanwhile
                    client.key_value_set(_sign(_Connection.me), str(tick), True)
            entries = client.key_value_dir_get(_sign(""))
        except jax.errors.JaxRuntimeError as error:
            if _Connection.client is not None:
                _end(f"the first process is gone ({one_line(error)})")
            return
        signs = {int(key.rpartition("/")[2]): sign for key, sign in entries}
        if problem := _find_problem(signs, last_signs, timeout_s):
            _end(problem)
        time.sleep(_TICK_S)


def _find_problem(
    signs: dict[int, str], last_signs: dict[int, tuple[str, float]], timeout_s: float
) -> str:
    """Return why this process has to end, or nothing; record new signs in `last_signs`."""
    now = time.monotonic()
    for process in range(_Connection.count):
        sign = signs.get(process, "")
        if sign.startswith("!"):
            return f"process {process} failed: {sign[1:]}"
        if process not in last_signs or last_signs[process][0] != sign:
            last_signs[process] = (sign, now)
        if sign != _GOODBYE and now - last_signs[process][1] > timeout_s:
            return f"process {process} is gone (no sign of life for {timeout_s:g} s)"
    return ""


def _end(problem: str) -> None:
    """End this process, whatever its other threads wait for."""
    if is_first():
        time.sleep(2 * _TICK_S)  # it serves the signs of life: let the others read them, too
    print_line(f"{problem}; {_REMEDY}")
    os._exit(1)


def _key(number: int, process: int | str) -> str:
    """Return where a process writes in an exchange; `_ALL` is the first one's collection."""
    return f"acdc/{number}/{process}"


def _number(key: str) -> int:
    return int(key.split("/")[1])


def _sign(process: int | str) -> str:
    return f"acdc-alive/{process}"
