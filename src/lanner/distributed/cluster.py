"""What a cluster is made of: racks of devices, and the links inside and between them; read from TOML."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from lanner.errors import DataError

_MBIT, _GIB = 1e6 / 8, 2.0**30


@dataclass(frozen=True)
class Link:
    """Bytes a second, and seconds before the first of them arrives."""

    bandwidth: float
    latency: float

    def seconds(self, size: float, messages: int = 1) -> float:
        """Of ``size`` bytes in so many messages, one after the other."""
        return size / self.bandwidth + messages * self.latency


@dataclass(frozen=True)
class Device:
    """A device. slowness: its seconds for what the profiled device does in one; memory: bytes."""

    rack: str
    slowness: float
    memory: float


@dataclass(frozen=True)
class Cluster:
    """Devices in the order of ranks, rack by rack; the link inside each rack, and between each two."""

    devices: tuple[Device, ...]
    inside: dict[str, Link]
    between: dict[frozenset[str], Link]

    def link(self, ranks: Sequence[int]) -> Link:
        """The slowest way between any two of some ranks."""
        racks = frozenset(self.devices[rank].rack for rank in ranks)
        if racks not in self._slowest:
            links = [self.inside[rack] for rack in racks]
            links += [self.between[frozenset(pair)] for pair in combinations(sorted(racks), 2)]
            slowest = Link(min(link.bandwidth for link in links), max(link.latency for link in links))
            self._slowest[racks] = slowest
        return self._slowest[racks]

    @cached_property
    def _slowest(self) -> dict[frozenset[str], Link]:
        return {}

    def crosses(self, ranks: Sequence[int]) -> bool:
        """Whether some ranks stand in more than one rack."""
        return len({self.devices[rank].rack for rank in ranks}) > 1


def read_cluster(path: Path) -> Cluster:
    """The cluster that a TOML file describes; see docs/distributed.md.

    Raises:
        DataError: no such file, no TOML, a key that is missing, unknown or out of range, or a link that is missing.
    """
    try:
        told = tomllib.loads(path.read_text())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"is no TOML ({error})", path=path) from None
    return cluster_of(told, path)


def cluster_of(told: dict[str, Any], path: Path) -> Cluster:
    """As ``read_cluster``, of tables that were read."""
    for name in told:
        if name not in ("rack", "link"):
            raise DataError("is unknown; a cluster has [[rack]] and [[link]]", path=path, field=name)
    devices: list[Device] = []
    inside: dict[str, Link] = {}
    for number, rack in enumerate(told.get("rack", []), 1):
        table = _Table(rack, path, f"rack {number}")
        name = str(rack.get("name", number))
        slowness = rack.get("slowness", 1.0)
        count = int(table.number("devices", len(slowness) if isinstance(slowness, list) else None))
        each = slowness if isinstance(slowness, list) else [slowness] * count
        if len(each) != count or not all(isinstance(one, int | float) and one > 0 for one in each):
            raise DataError(
                f"slowness must be a positive number, or a list of {count}, one for each device; received {slowness}",
                path=path,
                field=f"rack {name}",
            )
        memory = table.number("memory_gib", 16.0) * _GIB
        devices += [Device(name, float(one), memory) for one in each]
        inside[name] = table.link()
        table.check_known("name", "slowness")
    if not devices:
        raise DataError("has no [[rack]] with devices", path=path)
    between: dict[frozenset[str], Link] = {}
    for number, link in enumerate(told.get("link", []), 1):
        table, racks = _Table(link, path, f"link {number}"), link.get("racks")
        if not isinstance(racks, list) or len(racks) != 2 or not set(racks) <= set(inside):
            raise DataError(f"racks must name two of {', '.join(inside)}", path=path, field=f"link {number}")
        between[frozenset(racks)] = table.link()
        table.check_known("racks")
    for one, other in combinations(inside, 2):
        if frozenset((one, other)) not in between:
            raise DataError(
                f"there is no link between the racks '{one}' and '{other}'; "
                f'add [[link]] with racks = ["{one}", "{other}"]',
                path=path,
            )
    return Cluster(tuple(devices), inside, between)


class _Table:
    """One table of the file, whose errors say where it stands."""

    def __init__(self, table: dict[str, Any], path: Path, place: str) -> None:
        self._table, self._path, self._place = table, path, place
        self._asked: set[str] = set()

    def number(self, name: str, default: float | None) -> float:
        self._asked.add(name)
        value = self._table.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise DataError(f"{name} must be a positive number, received {value!r}", path=self._path, field=self._place)
        return float(value)

    def link(self) -> Link:
        bandwidth = self.number("bandwidth_mbit", None) * _MBIT
        return Link(bandwidth, self.number("latency_us", 100.0) / 1e6)

    def check_known(self, *others: str) -> None:
        unknown = sorted(set(self._table) - self._asked - set(others))
        if unknown:
            raise DataError(f"{unknown[0]} is unknown", path=self._path, field=self._place)
