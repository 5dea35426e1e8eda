"""Counts what a process tells and reads through JAX's coordination service."""

import collections
from typing import Any

from acdc_jax import multihost


class Counted:
    """The service's client, counting calls and bytes by name: told, read, deleted."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.calls: collections.Counter[str] = collections.Counter()
        self.bytes: collections.Counter[str] = collections.Counter()

    def key_value_set_bytes(self, key: str, value: bytes) -> None:
        self._count("told", value)
        self._client.key_value_set_bytes(key, value)

    def blocking_key_value_get_bytes(self, key: str, wait_ms: int) -> bytes:
        value: bytes = self._client.blocking_key_value_get_bytes(key, wait_ms)
        self._count("read", value)
        return value

    def key_value_delete(self, key: str) -> None:
        self._count("deleted", b"")
        self._client.key_value_delete(key)

    def _count(self, what: str, value: bytes) -> None:
        self.calls[what] += 1
        self.bytes[what] += len(value)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)  # signs of life


def count() -> Counted:
    """Counts from now on, in a process that has met the others."""
    counted = multihost._Connection.client = Counted(multihost._Connection.client)
    return counted
