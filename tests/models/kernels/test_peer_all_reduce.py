"""Who may exchange with whom; the exchange itself needs GPUs (see `test_residual_norm.py`)."""

import ctypes
from typing import Any

import jax
import numpy as np
import pytest

from acdc_jax.models.kernels.peer_all_reduce import allocate_inboxes, reachable

MESH = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("model",))


class _Driver:
    """Answers as CUDA's does."""

    def __init__(self, answer: int, status: int = 0) -> None:
        self.answer, self.status = answer, status

    def cuDeviceCanAccessPeer(self, found: Any, one: int | None, other: int | None) -> int:
        found._obj.value = self.answer
        return self.status


@pytest.mark.parametrize(
    ("driver", "expected"), [(_Driver(1), True), (_Driver(0), False), (_Driver(1, 100), False)]
)
def test_the_driver_is_asked(
    monkeypatch: pytest.MonkeyPatch, driver: _Driver, expected: bool
) -> None:
    """It may say no, or fail."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert reachable(MESH) is expected


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA."""

    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert not reachable(MESH)


def test_not_with_another_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its memory would not be shared."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: _Driver(1))
    monkeypatch.setenv("XLA_PYTHON_CLIENT_ALLOCATOR", "cuda_async")
    assert not reachable(MESH)


def test_addresses() -> None:
    """Everyone knows where all inboxes lie, and which is its own."""
    inboxes = allocate_inboxes(MESH, "model", 2, 48)
    assert inboxes.inbox.shape == (2, 2, 2, 2, 16, 2)
    found = [shard.data.unsafe_buffer_pointer() for shard in inboxes.inbox.addressable_shards]
    for device in range(2):
        addresses = np.asarray(inboxes.addresses.addressable_shards[device].data)
        assert addresses.view(np.uint64).ravel().tolist() == found
        assert int(inboxes.ranks.addressable_shards[device].data[0, 0]) == device
    assert not inboxes.inbox.any()
    assert not inboxes.turns.any()
