"""Where members' weights lie: on the devices, in the host's memory, or on disk.

Nothing here deletes a folder of `members/`: what may go is decided where manifests are written.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from acdc_jax.errors import AcdcError
from acdc_jax.evolve.budget import Budget, Shapes
from acdc_jax.evolve.member import HOST_MEMORY, check_member, load_member, on_disk, save_member
from acdc_jax.evolve.recipe import Recipe
from acdc_jax.model.transformer import Weights


class Store:
    """The members of a run, each in the fastest tier that has room for it.

    All members have the same size, so that a tier holds a number of them; the one that was not
    looked at for longest moves down. Members are read ahead by a thread of the store, and may be
    saved from another one; everything else is called from one thread.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Shapes,
        budget: Budget,
        elsewhere: Callable[[str], Weights] | None = None,
    ) -> None:
        """A store over the members that are on disk.

        Args:
            folder: `members/` of a run.
            shapes: path → shape, dtype and sharding of a member's weights on the devices.
            budget: how much memory the members may take.
            elsewhere: gives a member that is in no tier, such as a seed.
        """
        self._folder = folder
        self._elsewhere = elsewhere
        self._there = {path: leaf.sharding for path, leaf in shapes.items()}
        self._here = {
            path: where.with_memory_kind(HOST_MEMORY) for path, where in self._there.items()
        }
        self._wanted = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._here[path])
            for path, leaf in shapes.items()
        }
        self.bytes_of_member = sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes.values()
        )
        self._device_room = budget.members_on_device(shapes)
        self._host_room = budget.members_on_host(shapes)
        self._device: OrderedDict[str, Weights] = OrderedDict()
        self._host: OrderedDict[str, Weights] = OrderedDict()
        self._recipes: dict[str, Recipe] = {}  # of the members in a tier, except from elsewhere
        self._unchecked: set[str] = set()  # read, but not yet compared with their recipes
        self._coming: dict[str, Future[None]] = {}
        self._reader = ThreadPoolExecutor(1, "member-reader")
        self._tiers = threading.RLock()
        self._writing = threading.Lock()  # who holds it does not wait for `_tiers`

    def put(self, recipe: Recipe, weights: Weights) -> None:
        """Takes a member that was just made; `weights` must not be donated afterwards."""
        with self._tiers:
            self._recipes[recipe.id] = recipe
            self._to_device(recipe.id, weights)

    def get(self, member: str) -> Weights:
        """A member's weights, on the devices.

        Raises:
            AcdcError: it is nowhere, or not what its recipe says; names the folder.
        """
        if (coming := self._coming.get(member)) is not None:
            coming.result()
        with self._tiers:
            if member in self._device:
                self._device.move_to_end(member)
                weights = self._device[member]
            elif member in self._host:
                weights = self._promote(member)
            elif on_disk(self._folder / member):
                self._read(member)
                weights = self._promote(member)
            elif self._elsewhere is not None:
                weights = self._elsewhere(member)
                self._to_device(member, weights)
            else:
                raise AcdcError(f"{self._folder / member}: there is no such member")
            if member in self._unchecked:
                check_member(self._folder / member, weights, self._recipes[member])
                self._unchecked.remove(member)
        return weights

    def prefetch(self, members: Sequence[str]) -> None:
        """Starts to bring members to the devices, as far as there is room; returns at once."""
        room = self._device_room or min(self._host_room, 1)
        for member in list(dict.fromkeys(members))[:room]:
            with self._tiers:
                if member in self._device:
                    self._device.move_to_end(member)
                elif member in self._host:
                    self._promote(member)
                elif member not in self._coming and on_disk(self._folder / member):
                    self._coming[member] = self._reader.submit(self._read_ahead, member)

    def warm(self, members: Sequence[str]) -> None:
        """Brings members in, and checks them, until memory is full."""
        for member in members[: max(self._device_room, self._host_room)]:
            self.get(member)

    def save(self, recipe: Recipe) -> None:
        """Writes a member to disk, unless it is there; may be called from any thread.

        Raises:
            AcdcError: it cannot be written.
        """
        with self._tiers:
            weights = self._device.get(recipe.id) or self._host.get(recipe.id)
        with self._writing:
            if not on_disk(self._folder / recipe.id):
                if weights is None:
                    raise AcdcError(f"{self._folder / recipe.id}: there is no such member")
                save_member(self._folder / recipe.id, weights, recipe)

    def retain(self, members: Iterable[str]) -> None:
        """Forgets all other members, except on disk."""
        kept = set(members)
        with self._tiers:
            for tier in (self._device, self._host, self._recipes, self._coming):
                for member in tier.keys() - kept:
                    del tier[member]

    # ------------------------------------------------------------- what follows holds `_tiers`

    def _to_device(self, member: str, weights: Weights) -> None:
        self._device[member] = weights
        while len(self._device) > self._device_room:
            oldest, weights = self._device.popitem(last=False)
            if oldest not in self._host and not on_disk(self._folder / oldest):
                self._make_room_on_host()
                self._to_host(oldest, jax.device_put(weights, self._here))

    def _to_host(self, member: str, weights: Weights) -> None:
        self._host[member] = weights
        self._trim_host(self._host_room)

    def _promote(self, member: str) -> Weights:
        """Copies a member from the host to the devices; the copy goes on when this returns."""
        self._host.move_to_end(member)
        weights: Weights = jax.device_put(self._host[member], self._there)
        self._to_device(member, weights)
        self._trim_host(self._host_room)
        return weights

    def _read(self, member: str) -> None:
        self._make_room_on_host()
        self._came(member, *load_member(self._folder / member, self._wanted))

    def _came(self, member: str, weights: Weights, recipe: Recipe) -> None:
        self._recipes[member] = recipe
        self._unchecked.add(member)
        self._host[member] = weights

    def _make_room_on_host(self) -> None:
        """Before a member comes, and not after: there is never one too many."""
        self._trim_host(max(self._host_room - 1, 0))

    def _trim_host(self, room: int) -> None:
        while len(self._host) > room:
            oldest = next(iter(self._host))
            # What came from elsewhere has no recipe here, and comes from there again.
            if oldest not in self._device and oldest in self._recipes:
                self.save(self._recipes[oldest])
            del self._host[oldest]

    # ------------------------------------------------------------------ the reader's own thread

    def _read_ahead(self, member: str) -> None:
        with self._tiers:
            self._make_room_on_host()
        weights, recipe = load_member(self._folder / member, self._wanted)
        with self._tiers:
            if self._coming.pop(member, None) is not None:  # nobody has lost interest
                self._make_room_on_host()
                self._came(member, weights, recipe)
                if self._device_room:
                    self._promote(member)
