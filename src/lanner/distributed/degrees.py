"""The degrees of parallelism and the arithmetic of rank coordinates. Only ``mesh`` needs torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

from lanner.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Axis = Literal["pp", "replicate", "shard", "tp"]
AXES: tuple[Axis, ...] = get_args(Axis)
_FIELDS: Mapping[Axis, str] = {"pp": "pipeline", "replicate": "replicas", "shard": "shards", "tp": "tensor"}


@dataclass(frozen=True)
class Degrees:
    """How many ranks share each kind of work; the product is the number of ranks.

    order: of the axes in the numbering of ranks, slowest first: the first axis crosses racks, the last stays inside.
    """

    replicas: int = 1
    """Data-parallel replicas, each with all the weights."""
    shards: int = 1
    """FSDP2 shards of the batch and of the weights."""
    pipeline: int = 1
    """Pipeline-parallel parts of the list of layers."""
    tensor: int = 1
    """Tensor-parallel parts of the heads and neurons of each layer."""
    order: tuple[Axis, ...] = AXES
    """Axes in the order of rank numbers, slowest first: the first axis crosses racks, the last stays inside one."""

    def __post_init__(self) -> None:
        for field in fields(self)[:4]:
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} must be at least 1, received {getattr(self, field.name)}")
        if sorted(self.order) != sorted(AXES):
            raise ConfigError(f"order must hold each of {', '.join(AXES)} once, received {', '.join(self.order)}")

    @classmethod
    def parse(cls, text: str) -> "Degrees":
        """Degrees from text such as ``replicate=2,pp=2``; ``order`` follows the text.

        Raises:
            ConfigError: an unknown name, a value that is not a whole number, or a duplicate name.
        """
        given: dict[Axis, int] = {}
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, _, number = part.partition("=")
            axis = next((axis for axis in AXES if axis == {"dp": "replicate", "fsdp": "shard"}.get(name, name)), None)
            if axis is None or axis in given or not number.isdecimal():
                raise ConfigError(
                    f"parallel: received '{part}'; write each of {', '.join(AXES)} at most once, as in replicate=2,pp=2"
                )
            given[axis] = int(number)
        order = (*given, *(axis for axis in AXES if axis not in given))
        return cls(**{_FIELDS[axis]: number for axis, number in given.items()}, order=order)

    def of(self, axis: Axis) -> int:
        """The number of ranks along an axis."""
        return int(getattr(self, _FIELDS[axis]))

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.replicas * self.shards * self.pipeline * self.tensor

    @property
    def data(self) -> int:
        """Number of parts that a batch is split into."""
        return self.replicas * self.shards

    @property
    def arithmetic(self) -> str:
        """The product, written out."""
        return " × ".join(f"{axis} {self.of(axis)}" for axis in self.order) + f" = {self.world} ranks"

    def check_world(self, size: int) -> None:
        """Raises ``ConfigError`` unless the degrees multiply to ``size``."""
        if self.world != size:
            raise ConfigError(f"{self.arithmetic}, but there are {size}; change a degree or the number of processes")

    def check_model(self, *, layers: int, heads: int, key_value_heads: int, stages_per_rank: int = 1) -> None:
        """Raises ``ConfigError`` if the model cannot be split this way."""
        for name, count in (("attention heads", heads), ("key-value heads", key_value_heads)):
            if count % self.tensor:
                able = [degree for degree in range(1, count + 1) if math.gcd(heads, key_value_heads) % degree == 0]
                raise ConfigError(
                    f"tp {self.tensor} does not divide the {count} {name} of the model; choose one of {able}"
                )
        if self.pipeline * stages_per_rank > layers:
            raise ConfigError(
                f"pp {self.pipeline} × {stages_per_rank} stages per rank = {self.pipeline * stages_per_rank} stages, "
                f"but the model has {layers} layers; use fewer ranks for the pipeline"
            )

    def place(self, rank: int) -> dict[Axis, int]:
        """The coordinates of a rank."""
        found: dict[Axis, int] = {}
        for axis in reversed(self.order):
            rank, found[axis] = divmod(rank, self.of(axis))
        return found

    def ranks_along(self, axis: Axis, rank: int) -> list[int]:
        """The ranks that differ from ``rank`` only along this axis, including itself."""
        mine = self.place(rank)
        return [
            other
            for other in range(self.world)
            if all(mine[name] == at for name, at in self.place(other).items() if name != axis)
        ]

    def mesh(self, device_type: str = "cpu") -> "DeviceMesh":
        """The device mesh of these degrees, over all processes of the default group.

        Raises:
            ConfigError: the number of processes does not match.
        """
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        self.check_world(dist.get_world_size())
        shape = tuple(self.of(axis) for axis in self.order)
        return init_device_mesh(device_type, shape, mesh_dim_names=self.order)
