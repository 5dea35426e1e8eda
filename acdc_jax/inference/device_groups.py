"""Groups of devices that work side by side, each with one member (or one stacked population).

A group is one row of the mesh: the devices over which one member's params are sharded. Each group
runs its own programs in its own thread. No program waits for another group, so a group that
finishes early continues at once. A group belongs to the process that owns its devices.
"""

import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax

from acdc_jax.inference.memory import device_room, weight_bytes
from acdc_jax.models.config import ModelConfig
from acdc_jax.models.param_shardings import param_shardings
from acdc_jax.params import Params
from acdc_jax.sharding import default_mesh, make_mesh, pop_groups

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DeviceGroup:
    """Devices over which the params of one member are sharded.

    Attributes:
        index: Position among the groups of this process.
        rank: Position among the groups of all processes.
        mesh: Mesh of the group's devices, with the one axis "model".
    """

    index: int
    rank: int
    mesh: jax.sharding.Mesh

    @property
    def device(self) -> jax.Device:
        """The first device, which holds small arrays."""
        device: jax.Device = self.mesh.devices.flat[0]
        return device


@dataclasses.dataclass(frozen=True)
class DeviceGroups:
    """The device groups of this process, and the number of groups in all processes."""

    local: tuple[DeviceGroup, ...]
    count: int

    @classmethod
    def of_mesh(cls, mesh: jax.sharding.Mesh) -> "DeviceGroups":
        """Split the mesh of all processes into groups along "pop"; keep those of this process.

        Raises:
            ConfigError: A group has devices of several processes.
        """
        rows = pop_groups(mesh)
        here = [
            (rank, row)
            for rank, row in enumerate(rows)
            if row.devices.flat[0].process_index == jax.process_index()
        ]
        groups = (DeviceGroup(index, rank, row) for index, (rank, row) in enumerate(here))
        return cls(tuple(groups), len(rows))

    @classmethod
    def for_model(cls, model: ModelConfig, models_at_once: int) -> "DeviceGroups":
        """Return groups of this process's devices, with as few devices each as memory requires.

        Args:
            model: Architecture of the models.
            models_at_once: Number of models that a group holds at once.

        Raises:
            ConfigError: All devices together have too little memory.
        """
        devices = jax.local_devices()
        spec = default_mesh(devices, weight_bytes(model), device_room(), models_at_once)
        return cls.of_mesh(make_mesh(spec, devices))

    def copies(self, params: Params, model: ModelConfig) -> list[Params]:
        """Return a copy of one member's params on each group of this process."""
        return [
            jax.device_put(params, param_shardings(group.mesh, model, population=False))
            for group in self.local
        ]

    def run(self, work: Callable[[DeviceGroup], T]) -> list[T]:
        """Call `work` for each group of this process, each in its own thread.

        Returns:
            The results, in the order of `local`.

        Raises:
            Exception: The failure of the first group that failed, after all groups have ended.
        """

        def work_on_device(group: DeviceGroup) -> T:
            with jax.default_device(group.device):
                return work(group)

        if len(self.local) == 1:
            return [work_on_device(self.local[0])]
        with ThreadPoolExecutor(len(self.local), "device-group") as threads:
            return list(threads.map(work_on_device, self.local))

    def share(self, group: DeviceGroup, items: Sequence[T]) -> Sequence[T]:
        """Return the group's share of `items`: every `count`-th one, starting at its rank."""
        return items[group.rank :: self.count]
