"""Members' weights: the one way to get them, wherever they are.

`MemberStore.get` looks for a member on the devices, in the host's memory, on disk, in the seed
folders, and rebuilds it from its recipe as the last resort. Nothing here deletes a folder of
`members/`; `run_directory.py` does, after a commit.
"""

import threading
from collections import OrderedDict, defaultdict
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
    disk_bytes,
    load_member,
    on_disk,
    remove_member,
    save_member,
)
from acdc_jax.runtime.memory_budget import Budget, Shapes


class MemberStore:
    """The members of a run, each in the fastest tier that has room for it.

    All members have the same size, so a tier holds a fixed number of them. The least recently used
    one moves down a tier. Each group of devices has its own tier, with its own copy of a
    member. Host memory and disk are common to all groups of the process.

    Threads: the groups' threads call `get`, `put` and `prefetch`, and the commit's thread calls
    `save`. A thread of the store reads members ahead. `_lock` guards the tiers; `_writing` has a
    lock for each folder. Lock order: never acquire `_lock` while holding one of `_writing`.
    """

    def __init__(
        self,
        folder: Path,
        groups: Sequence[Shapes],
        budget: Budget,
        *,
        loaders: Mapping[str, Callable[[], Params]] | None = None,
        rebuild: Callable[[str], Params] | None = None,
        recipes: Mapping[str, Recipe] | None = None,
        overflow: Path | None = None,
    ) -> None:
        """Open the members that are on disk.

        Args:
            folder: `members/` of a run.
            groups: Path → shape, dtype and sharding of a member's weights, on each group of
                devices.
            budget: Memory that the members may take.
            loaders: Member id → loads a member that need not be on disk, such as a seed.
            rebuild: Rebuilds any other member from its recipe; None: never rebuild.
            recipes: Member id → recipe that it must have on disk; None: the one in its folder.
            overflow: Folder for what does not fit into memory; None for `folder`. A process that
                does not write the run's members has a folder of its own.
        """
        self._folder = folder
        self._overflow = overflow or folder
        self._loaders = loaders or {}
        self._rebuild = rebuild
        self._expected = recipes or {}
        self._device_shardings = [
            {path: leaf.sharding for path, leaf in shapes.items()} for shapes in groups
        ]
        self._host_shardings = [
            {path: where.with_memory_kind(HOST_MEMORY) for path, where in shardings.items()}
            for shardings in self._device_shardings
        ]
        shapes = groups[0]
        self._host_shapes = {
            path: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._host_shardings[0][path]
            )
            for path, leaf in shapes.items()
        }
        self.disk_bytes = disk_bytes(shapes)  # of one member
        self._device_room = budget.members_on_device(shapes)  # of each group
        self._host_room = budget.members_on_host(shapes)
        self._device: OrderedDict[tuple[int, str], Params] = OrderedDict()
        self._host: OrderedDict[str, Params] = OrderedDict()
        self._recipes: dict[str, Recipe] = {}  # of members that were put or read
        self._unchecked: set[str] = set()  # read, but not yet compared with their recipes
        self._reads: dict[str, Future[None]] = {}
        self._reader = ThreadPoolExecutor(1, "member-reader")
        self._lock = threading.RLock()
        self._writing = defaultdict[Path, threading.Lock](threading.Lock)

    def put(self, recipe: Recipe, weights: Params, group: int = 0) -> None:
        """Add a member that was just made; `weights` must not be donated afterwards.

        Args:
            recipe: What made it.
            weights: Its weights, on the devices of `group`.
            group: Index of the group.
        """
        with self._lock:
            self._recipes[recipe.id] = recipe
            self._add_to_device(recipe.id, weights, group)

    def __contains__(self, member: object) -> bool:
        """Return whether `get` returns a member without rebuilding it."""
        name = str(member)
        with self._lock:
            return (
                self._group_with(name) is not None
                or name in self._host
                or self._is_on_disk(name)
                or name in self._loaders
            )

    def get(self, member: str, group: int = 0) -> Params:
        """Return a member's weights, on the devices of a group.

        Raises:
            AcdcError: The member does not exist, or differs from its recipe; names the folder.
        """
        if (read := self._reads.get(member)) is not None:
            read.result()
        with self._lock:
            for tier in (
                self._get_from_device,
                self._get_from_host,
                self._get_from_disk,
                self._get_from_loader,
                self._get_rebuilt,
            ):
                if (weights := tier(member, group)) is not None:
                    break
            else:
                raise AcdcError(
                    f"{self._folder / member}: there is no such member; restore it from a copy"
                )
            if member in self._unchecked:
                check_member(self._place(member), weights, self._recipes[member])
                self._unchecked.remove(member)
        return weights

    def prefetch(self, members: Sequence[str], group: int = 0) -> None:
        """Start to copy members to a group, up to its budget; return at once."""
        room = self._device_room or min(self._host_room, 1)
        for member in list(dict.fromkeys(members))[:room]:
            with self._lock:
                if (group, member) in self._device:
                    self._device.move_to_end((group, member))
                elif member in self._host:
                    if self._device_room:  # otherwise it would be dropped again
                        self._promote(member, group)
                elif (
                    self._group_with(member) is None
                    and member not in self._reads
                    and self._is_on_disk(member)
                ):
                    self._reads[member] = self._reader.submit(self._read_ahead, member, group)

    def warm(self, members: Sequence[str]) -> None:
        """Read members, and check them, until memory is full."""
        for member in members[: max(self._device_room, self._host_room)]:
            self.get(member)

    def save(self, recipe: Recipe, folder: Path | None = None) -> None:
        """Write a member to disk, if it is not there; from any thread.

        Args:
            recipe: What made it.
            folder: Parent of its folder; None for the run's members.

        Raises:
            AcdcError: It cannot be written.
        """
        folder = (folder or self._folder) / recipe.id
        with self._lock:
            group = self._group_with(recipe.id)
            weights = self._host.get(recipe.id)
            if weights is None and group is not None:
                weights = self._device[group, recipe.id]
            writing = self._writing[folder]
        with writing:
            if not on_disk(folder):
                if weights is None:
                    raise AcdcError(f"{folder}: there is no such member")
                save_member(folder, weights, recipe)

    def retain(self, members: Iterable[str]) -> None:
        """Forget all other members, except those in the run's own folder."""
        members_to_keep = set(members)
        with self._lock:
            for place in [place for place in self._device if place[1] not in members_to_keep]:
                del self._device[place]
            for tier in (self._host, self._recipes, self._reads):
                for member in tier.keys() - members_to_keep:
                    del tier[member]
            self._unchecked &= members_to_keep
        if self._overflow != self._folder:
            for folder in self._overflow.glob("*"):
                if folder.name not in members_to_keep and folder.is_dir():
                    remove_member(folder)

    # ------------------------------------------------------- the tiers, with `_lock` held

    def _get_from_device(self, member: str, group: int) -> Params | None:
        if (group, member) in self._device:
            self._device.move_to_end((group, member))
            return self._device[group, member]
        if (other := self._group_with(member)) is None:
            return None
        weights: Params = jax.device_put(self._device[other, member], self._device_shardings[group])
        self._add_to_device(member, weights, group)
        return weights

    def _get_from_host(self, member: str, group: int) -> Params | None:
        return self._promote(member, group) if member in self._host else None

    def _get_from_disk(self, member: str, group: int) -> Params | None:
        if not self._is_on_disk(member):
            return None
        self._make_room_on_host()
        self._add_read(member, *load_member(self._place(member), self._host_shapes))
        return self._promote(member, group)

    def _get_from_loader(self, member: str, group: int) -> Params | None:
        load = self._loaders.get(member)
        return self._add_loaded(member, load(), group) if load else None

    def _get_rebuilt(self, member: str, group: int) -> Params | None:
        return self._add_loaded(member, self._rebuild(member), group) if self._rebuild else None

    def _add_loaded(self, member: str, weights: Params, group: int) -> Params:
        weights = jax.device_put(weights, self._device_shardings[group])
        self._add_to_device(member, weights, group)
        return weights

    def _group_with(self, member: str) -> int | None:
        """Return a group that has a copy, if any."""
        groups = range(len(self._device_shardings))
        return next((group for group in groups if (group, member) in self._device), None)

    def _place(self, member: str) -> Path:
        common = self._folder / member
        return common if on_disk(common) else self._overflow / member

    def _is_on_disk(self, member: str) -> bool:
        return on_disk(self._place(member))

    def _add_to_device(self, member: str, weights: Params, group: int) -> None:
        self._device[group, member] = weights
        places = [place for place in self._device if place[0] == group]
        for place in places[: max(len(places) - self._device_room, 0)]:
            weights, oldest = self._device.pop(place), place[1]
            has_copy = self._group_with(oldest) is not None or oldest in self._host
            if not has_copy and not self._is_on_disk(oldest):
                self._make_room_on_host()
                self._host[oldest] = jax.device_put(weights, self._host_shardings[group])
                self._trim_host(self._host_room)

    def _promote(self, member: str, group: int) -> Params:
        """Copy a member from the host to the devices. The copy continues when this returns."""
        self._host.move_to_end(member)
        weights: Params = jax.device_put(self._host[member], self._device_shardings[group])
        self._add_to_device(member, weights, group)
        self._trim_host(self._host_room)
        return weights

    def _add_read(self, member: str, weights: Params, recipe: Recipe) -> None:
        self._recipes[member] = self._expected.get(member, recipe)
        self._unchecked.add(member)
        self._host[member] = weights

    def _make_room_on_host(self) -> None:
        """Make room before a member arrives, so that the budget is never exceeded."""
        self._trim_host(max(self._host_room - 1, 0))

    def _trim_host(self, room: int) -> None:
        while len(self._host) > room:
            oldest = next(iter(self._host))
            only_copy = self._group_with(oldest) is None and not self._is_on_disk(oldest)
            # A member without a recipe here was loaded or rebuilt, and can be again.
            if only_copy and oldest in self._recipes:
                self.save(self._recipes[oldest], self._overflow)
            del self._host[oldest]

    # ---------------------------------------------------------------- the reader's own thread

    def _read_ahead(self, member: str, group: int) -> None:
        with self._lock:
            self._make_room_on_host()
        weights, recipe = load_member(self._place(member), self._host_shapes)
        with self._lock:
            if self._reads.pop(member, None) is not None:  # still wanted
                self._make_room_on_host()
                self._add_read(member, weights, recipe)
                if self._device_room:
                    self._promote(member, group)
