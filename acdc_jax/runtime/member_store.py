"""Where members' weights lie: on the devices, in the host's memory, or on disk.

Nothing here deletes a folder of `members/`: what may go is decided where manifests are written.
"""

import math
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import jax

from acdc_jax.errors import AcdcError
from acdc_jax.evolution.recipe import Recipe
from acdc_jax.params import Params
from acdc_jax.runtime.member_files import (
    HOST_MEMORY,
    check_member,
    load_member,
    on_disk,
    save_member,
)
from acdc_jax.runtime.memory_budget import Budget, Shapes


class MemberStore:
    """The members of a run, each in the fastest tier that has room for it.

    All members have the same size, so that a tier holds a number of them; the one that was not
    looked at for longest moves down. Each group of devices has a tier of its own, and a copy of a
    member where it is at work; the host's and the disk are common. Members are read ahead by a
    thread of the store; the groups' threads take and put, and another one may save.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Shapes,
        budget: Budget,
        elsewhere: Mapping[str, Callable[[], Params]] | None = None,
        others: Sequence[Shapes] = (),
        overflow: Path | None = None,
    ) -> None:
        """A store over the members that are on disk.

        Args:
            folder: `members/` of a run.
            shapes: path → shape, dtype and sharding of a member's weights on the devices.
            budget: how much memory the members may take.
            elsewhere: what gives members that are in no tier, such as seeds, by id.
            others: the same shapes on further groups of devices; the first group is number 0.
            overflow: where what does not fit into memory goes; None: to `folder`. Processes that do
                not write the run's members have a place of their own.
        """
        self._folder = folder
        self._overflow = overflow or folder
        self._elsewhere = elsewhere or {}
        self._there = [_shardings(group) for group in (shapes, *others)]
        self._here = [
            {path: where.with_memory_kind(HOST_MEMORY) for path, where in there.items()}
            for there in self._there
        ]
        self._wanted = {
            path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=self._here[0][path])
            for path, leaf in shapes.items()
        }
        self.bytes_of_member = sum(
            math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes.values()
        )
        self._device_room = budget.members_on_device(shapes)  # of each group
        self._host_room = budget.members_on_host(shapes)
        self._device: OrderedDict[tuple[int, str], Params] = OrderedDict()
        self._host: OrderedDict[str, Params] = OrderedDict()
        self._recipes: dict[str, Recipe] = {}  # of the members in a tier, except from elsewhere
        self._unchecked: set[str] = set()  # read, but not yet compared with their recipes
        self._coming: dict[str, Future[None]] = {}
        self._reader = ThreadPoolExecutor(1, "member-reader")
        self._tiers = threading.RLock()
        self._writing = threading.Lock()  # who holds it does not wait for `_tiers`

    def put(self, recipe: Recipe, weights: Params, group: int = 0) -> None:
        """Takes a member that was just made; `weights` must not be donated afterwards.

        Args:
            recipe: what made it.
            weights: on the devices of `group`.
            group: number of that group in this store.
        """
        with self._tiers:
            self._recipes[recipe.id] = recipe
            self._to_device(recipe.id, weights, group)

    def __contains__(self, member: str) -> bool:
        """Whether a member can be had without making it."""
        with self._tiers:
            return self._on_device(member) is not None or member in self._host or self._kept(member)

    def get(self, member: str, group: int = 0) -> Params:
        """A member's weights, on the devices of a group.

        Raises:
            AcdcError: it is nowhere, or not what its recipe says; names the folder.
        """
        if (coming := self._coming.get(member)) is not None:
            coming.result()
        with self._tiers:
            if (group, member) in self._device:
                self._device.move_to_end((group, member))
                weights = self._device[group, member]
            elif (beside := self._on_device(member)) is not None:
                weights = jax.device_put(self._device[beside, member], self._there[group])
                self._to_device(member, weights, group)
            elif member in self._host:
                weights = self._promote(member, group)
            elif self._kept(member):
                self._read(member)
                weights = self._promote(member, group)
            elif member in self._elsewhere:
                weights = jax.device_put(self._elsewhere[member](), self._there[group])
                self._to_device(member, weights, group)
            else:
                raise AcdcError(
                    f"{self._folder / member}: there is no such member; restore it from a copy"
                )
            if member in self._unchecked:
                check_member(self._place(member), weights, self._recipes[member])
                self._unchecked.remove(member)
        return weights

    def prefetch(self, members: Sequence[str], group: int = 0) -> None:
        """Starts to bring members to a group, as far as there is room; returns at once."""
        room = self._device_room or min(self._host_room, 1)
        for member in list(dict.fromkeys(members))[:room]:
            with self._tiers:
                if (group, member) in self._device:
                    self._device.move_to_end((group, member))
                elif member in self._host:
                    if self._device_room:  # else it would be dropped again
                        self._promote(member, group)
                elif (
                    self._on_device(member) is None
                    and member not in self._coming
                    and self._kept(member)
                ):
                    self._coming[member] = self._reader.submit(self._read_ahead, member, group)

    def warm(self, members: Sequence[str]) -> None:
        """Brings members in, and checks them, until memory is full."""
        for member in members[: max(self._device_room, self._host_room)]:
            self.get(member)

    def save(self, recipe: Recipe, folder: Path | None = None) -> None:
        """Writes a member to disk, unless it is there; may be called from any thread.

        Args:
            recipe: what made it.
            folder: where its folder goes; None: to the run's members.

        Raises:
            AcdcError: it cannot be written.
        """
        folder = (folder or self._folder) / recipe.id
        with self._tiers:
            beside = self._on_device(recipe.id)
            weights = self._host.get(recipe.id)
            if weights is None and beside is not None:
                weights = self._device[beside, recipe.id]
        with self._writing:
            if not on_disk(folder):
                if weights is None:
                    raise AcdcError(f"{folder}: there is no such member")
                save_member(folder, weights, recipe)

    def retain(self, members: Iterable[str]) -> None:
        """Forgets all other members, except in the run's own folder."""
        kept = set(members)
        with self._tiers:
            for place in [place for place in self._device if place[1] not in kept]:
                del self._device[place]
            for tier in (self._host, self._recipes, self._coming):
                for member in tier.keys() - kept:
                    del tier[member]
        if self._overflow != self._folder:
            for folder in self._overflow.glob("*"):
                if folder.name not in kept:
                    shutil.rmtree(folder)

    # ------------------------------------------------------------- what follows holds `_tiers`

    def _on_device(self, member: str) -> int | None:
        """A group that has a copy."""
        groups = range(len(self._there))
        return next((group for group in groups if (group, member) in self._device), None)

    def _place(self, member: str) -> Path:
        common = self._folder / member
        return common if on_disk(common) else self._overflow / member

    def _kept(self, member: str) -> bool:
        return on_disk(self._place(member))

    def _to_device(self, member: str, weights: Params, group: int) -> None:
        self._device[group, member] = weights
        own = [place for place in self._device if place[0] == group]
        for place in own[: max(len(own) - self._device_room, 0)]:
            weights, oldest = self._device.pop(place), place[1]
            elsewhere = self._on_device(oldest) is not None or oldest in self._host
            if not elsewhere and not self._kept(oldest):
                self._make_room_on_host()
                self._to_host(oldest, jax.device_put(weights, self._here[group]))

    def _to_host(self, member: str, weights: Params) -> None:
        self._host[member] = weights
        self._trim_host(self._host_room)

    def _promote(self, member: str, group: int) -> Params:
        """Copies a member from the host to the devices; the copy goes on when this returns."""
        self._host.move_to_end(member)
        weights: Params = jax.device_put(self._host[member], self._there[group])
        self._to_device(member, weights, group)
        self._trim_host(self._host_room)
        return weights

    def _read(self, member: str) -> None:
        self._make_room_on_host()
        self._came(member, *load_member(self._place(member), self._wanted))

    def _came(self, member: str, weights: Params, recipe: Recipe) -> None:
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
            lost = self._on_device(oldest) is None and not self._kept(oldest)
            if lost and oldest in self._recipes:
                self.save(self._recipes[oldest], self._overflow)
            del self._host[oldest]

    # ------------------------------------------------------------------ the reader's own thread

    def _read_ahead(self, member: str, group: int) -> None:
        with self._tiers:
            self._make_room_on_host()
        weights, recipe = load_member(self._place(member), self._wanted)
        with self._tiers:
            if self._coming.pop(member, None) is not None:  # nobody has lost interest
                self._make_room_on_host()
                self._came(member, weights, recipe)
                if self._device_room:
                    self._promote(member, group)


def _shardings(shapes: Shapes) -> dict[str, jax.sharding.Sharding]:
    return {path: leaf.sharding for path, leaf in shapes.items()}
