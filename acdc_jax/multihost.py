"""Several processes of one run: who is first, and what they tell each other.

All processes run the same program on the same decisions. What one of them learnt, the others are
told as JSON through the key-value store of JAX's coordination service, which the first process
serves; weights never travel. Every process makes the same exchanges in the same order. With one
process, every function here returns at once. What they cost: launch/README.md.
"""

import json
import os
import sys
import threading
import time
from typing import Any, ClassVar

import jax

from acdc_jax.errors import AcdcError, ConfigError

_TICK_S = 0.5  # between signs of life
_REMEDY = "the same command resumes from the last commit"
_BYE = "bye"
_ALL = "all"
_PIECE = 2**20  # bytes per message: far below any limit of the service
_WAIT_MS = 1_000  # of one attempt to read, so that signals are seen in between


class _Connection:
    """This process's connection to the others; `client` is None as long as it is alone."""

    client: Any = None
    me = 0
    count = 1
    exchanges = 0
    published: ClassVar[list[str]] = []  # keys under which this process said something
    last_word = threading.Lock()  # held while a sign of life is given, lest it be one too late


def initialise(
    coordinator: str | None, num_processes: int, process_id: int, detect: bool, timeout_s: float
) -> None:
    """Joins the processes of a run; must come before anything touches a device.

    Args:
        coordinator: host:port at which the first process listens, or None.
        num_processes: how many there are; 1: this one is alone, unless `detect`.
        process_id: which of them this is.
        detect: let JAX find out all three from the environment (SLURM, Cloud TPU, Open MPI).
        timeout_s: silence after which a process counts as dead. The others end with one line
            within a second more; at once where it is the first, which served the messages.

    Raises:
        ConfigError: the environment does not say who the processes are.
        AcdcError: the others do not come.
    """
    if (not detect and num_processes == 1) or _Connection.client is not None:
        return
    # A dead peer would abort this process from within C++; `_watch` ends it with a line instead.
    jax.config.update("jax_enable_recoverability", True)
    # Its handler of SIGTERM would take the place of `preemption`'s, which says why.
    jax.config.update("jax_enable_preemption_service", False)
    given: dict[str, Any] = (
        {} if detect else {"num_processes": num_processes, "process_id": process_id}
    )
    try:
        jax.distributed.initialize(
            coordinator,
            **given,
            cluster_detection_method=None if detect else "deactivate",
            heartbeat_timeout_seconds=max(int(timeout_s), 1),
            shutdown_timeout_seconds=max(int(timeout_s), 1),
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"--distributed: the environment does not say who the processes are ({error}); "
            "give --coordinator, --num_processes and --process_id"
        ) from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise AcdcError(
            f"--coordinator={coordinator}: the processes do not meet ({reason})"
        ) from None
    # Not public, and what orbax uses too: JAX's public exchanges are collectives of the devices,
    # which would have to be compiled, cannot be timed out, and would interrupt the decoding.
    from jax._src import distributed

    state = distributed.global_state
    _Connection.client, _Connection.me, _Connection.count = (
        state.client,
        state.process_id,
        state.num_processes,
    )
    threading.Thread(target=_watch, args=(timeout_s,), name="peers", daemon=True).start()


def is_first() -> bool:
    """Whether this process talks to the scientist and writes the run directory."""
    return _Connection.me == 0


def all_gather(value: Any) -> list[Any]:
    """What every process gave, by process. Values are JSON; NaN and infinities survive.

    The first one reads what each gave, and the others what it read: 2P messages in all, not P².
    """
    if _Connection.client is None:
        return [value]
    number = _next()
    _announce(_key(number, _Connection.me), value)
    if is_first():
        found = [_read(_key(number, process)) for process in range(_Connection.count)]
        _announce(_key(number, _ALL), found)
    else:
        found = _read(_key(number, _ALL))
    # Everybody has come to this exchange, and so has read whatever was said before it.
    for old in [key for key in _Connection.published if _number(key) < number]:
        _Connection.client.key_value_delete(f"{old}/")
        _Connection.published.remove(old)
    return found


def gather(value: Any) -> list[Any]:
    """What every process gave, by process, in the first one; an empty list in the others."""
    if _Connection.client is None:
        return [value]
    number = _next()
    _announce(_key(number, _Connection.me), value)
    return [_read(_key(number, p)) for p in range(_Connection.count)] if is_first() else []


def broadcast(value: Any) -> Any:
    """What the first process gave; the others' values are ignored."""
    if _Connection.client is None:
        return value
    key = _key(_next(), 0)
    if is_first():
        _announce(key, value)
    return _read(key)


def barrier() -> None:
    """Returns when every process has come here."""
    if _Connection.client is not None:
        all_gather(None)


def assert_equal(what: str, value: Any) -> None:
    """Raises ConfigError, in every process, where processes differ in `value`."""
    values = all_gather(value)
    for process, other in enumerate(values):
        if other != values[0]:
            odd = other
            if isinstance(other, dict):
                odd = {k: v for k, v in other.items() if values[0].get(k) != v}
            raise ConfigError(
                f"{what} of process {process} differ from process 0's ({odd}); "
                "start every process with the same flags"
            )


def shutdown(problem: str = "") -> None:
    """Parts from the others: in peace, when all have come here; or telling them the problem."""
    if (client := _Connection.client) is None:
        return
    if problem:
        with _Connection.last_word:
            _Connection.client = None
            client.key_value_set(_sign(_Connection.me), f"!{problem}", True)
        time.sleep(4 * _TICK_S)  # the first process serves the store: until the others have read it
        return
    barrier()
    with _Connection.last_word:
        _Connection.client = None
        client.key_value_set(_sign(_Connection.me), _BYE, True)
    if is_first():
        # Returns when nobody else is connected. JAX aborts a process that is when the service ends.
        client.get_live_nodes(list(range(_Connection.count)))
    jax.distributed.shutdown()


def _next() -> int:
    """The number of the exchange that begins."""
    _Connection.exchanges += 1
    return _Connection.exchanges


def _announce(key: str, value: Any) -> None:
    """Publishes a value, in pieces; whoever reads the first one knows how many there are."""
    data = json.dumps(value).encode()
    pieces = [data[i : i + _PIECE] for i in range(0, len(data), _PIECE)]
    for i, piece in enumerate(pieces[1:], 1):
        _Connection.client.key_value_set_bytes(f"{key}/{i}", piece)
    head = len(pieces).to_bytes(4, "big") + pieces[0]
    _Connection.client.key_value_set_bytes(f"{key}/0", head)
    _Connection.published.append(key)


def _read(key: str) -> Any:
    head = _wait_for(f"{key}/0")
    count = int.from_bytes(head[:4], "big")
    rest = [_wait_for(f"{key}/{i}") for i in range(1, count)]
    return json.loads(b"".join([head[4:], *rest]))


def _wait_for(key: str) -> bytes:
    """The peers' watch ends this process where nobody will write the key any more."""
    while True:
        try:
            value: bytes = _Connection.client.blocking_key_value_get_bytes(key, _WAIT_MS)
            return value
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise AcdcError(f"the first process is gone ({_short(error)}); {_REMEDY}") from None


def _watch(timeout_s: float) -> None:
    """Gives signs of life, and ends this process when another one's stop."""
    me, tick = _Connection.me, 0
    seen: dict[int, tuple[str, float]] = {}
    while (client := _Connection.client) is not None:
        tick += 1
        try:
            with _Connection.last_word:
                if _Connection.client is not None:  # has not parted meanwhile
                    client.key_value_set(_sign(me), str(tick), True)
            found = client.key_value_dir_get(_sign(""))
        except jax.errors.JaxRuntimeError as error:
            if _Connection.client is not None:
                _end(f"the first process is gone ({_short(error)})")
            return
        now = time.monotonic()
        signs = {int(key.rpartition("/")[2]): sign for key, sign in found}
        for process in range(_Connection.count):
            sign = signs.get(process, "")
            if sign.startswith("!"):
                _end(f"process {process} failed: {sign[1:]}")
            if process not in seen or seen[process][0] != sign:
                seen[process] = (sign, now)
            if sign != _BYE and now - seen[process][1] > timeout_s:
                _end(f"process {process} is gone (no sign of life for {timeout_s:g} s)")
        time.sleep(_TICK_S)


def _end(problem: str) -> None:
    """Ends this process, whatever its other threads wait for."""
    if is_first():
        time.sleep(2 * _TICK_S)  # it serves the signs of life: the others read the same in them
    print(f"acdc: {problem}; {_REMEDY}", file=sys.stderr, flush=True)
    os._exit(1)


def _key(number: int, process: int | str) -> str:
    """Where a process says something in an exchange; `_ALL`: the first one, for all of them."""
    return f"acdc/{number}/{process}"


def _number(key: str) -> int:
    return int(key.split("/")[1])


def _sign(process: int | str) -> str:
    return f"acdc-alive/{process}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
