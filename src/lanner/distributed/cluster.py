"""Cluster topology: racks of devices, and the links within and between them; read from TOML."""

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.errors import DataError, nearest

_MBIT, _GIB = 1e6 / 8, 2.0**30
_LARGEST, _MAX_DEVICES = 1e12, 100_000
"""Largest number of any kind in the file, and of devices in a rack."""
_LINK_KEYS = ("bandwidth_mbit", "latency_us")
_RACK_KEYS = ("name", "devices", "slowness", "memory_gib", *_LINK_KEYS)


@dataclass(frozen=True)
class Link:
    """bandwidth: bytes per second. latency: seconds before the first byte arrives."""

    bandwidth: float
    latency: float

    def seconds(self, size: float, messages: int = 1) -> float:
        """Time to send ``size`` bytes in ``messages`` consecutive messages."""
        return size / self.bandwidth + messages * self.latency


@dataclass(frozen=True)
class Device:
    """A device. slowness: its seconds for one second of work of the profiled device. memory: bytes."""

    rack: str
    slowness: float
    memory: float


@dataclass(frozen=True, eq=False)
class Cluster:
    """Devices in rank order, rack by rack; the link within each rack and between each pair of racks."""

    devices: tuple[Device, ...]
    inside: dict[str, Link]
    between: dict[frozenset[str], Link]
    elsewhere: Link | None = None
    """Between racks that are not a pair of ``between``; None: there are no such racks."""

    def link(self, ranks: Sequence[int]) -> Link:
        """The slowest link between any two of the ranks."""
        racks = frozenset(self.devices[rank].rack for rank in ranks)
        if racks not in self._slowest:
            links = [self.inside[rack] for rack in racks]
            num_pairs = math.comb(len(racks), 2)
            # Whichever are fewer: the pairs of these racks, or those with a link of their own.
            pairs = map(frozenset, combinations(racks, 2)) if num_pairs < len(self.between) else iter(self.between)
            own = [self.between[pair] for pair in pairs if pair <= racks and pair in self.between]
            links += own
            if self.elsewhere is not None and len(own) < num_pairs:
                links.append(self.elsewhere)
            slowest = Link(min(link.bandwidth for link in links), max(link.latency for link in links))
            self._slowest[racks] = slowest
        return self._slowest[racks]

    @cached_property
    def _slowest(self) -> dict[frozenset[str], Link]:
        return {}

    @cached_property
    def racks(self) -> NDArray[np.intp]:
        """The number of each device's rack."""
        number = {rack: at for at, rack in enumerate(self.inside)}
        return np.array([number[device.rack] for device in self.devices])

    @cached_property
    def memory(self) -> NDArray[np.float64]:
        """Bytes of each device."""
        return np.array([device.memory for device in self.devices])

    def crosses(self, ranks: Sequence[int]) -> bool:
        """Whether the ranks span more than one rack."""
        return len({self.devices[rank].rack for rank in ranks}) > 1


def read_cluster(path: Path) -> Cluster:
    """The cluster that a TOML file describes; see docs/distributed.md.

    Raises:
        DataError: the file is missing or not TOML, a key is missing, unknown or out of range, or a link is missing.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"is not valid TOML ({error})", path=path) from None
    return cluster_of(document, path)


def cluster_of(document: dict[str, Any], path: Path) -> Cluster:
    """As ``read_cluster``, from parsed TOML."""
    for name in document:
        if name not in ("rack", "link"):
            raise DataError("is unknown; a cluster has [[rack]] and [[link]]", path=path, field=name)
    devices: list[Device] = []
    inside: dict[str, Link] = {}
    for number, rack in enumerate(_tables(document, "rack", path), 1):
        table = _Table(rack, path, f"rack {number}", _RACK_KEYS)
        name = rack.get("name", str(number))
        if not isinstance(name, str) or not name:
            raise DataError(f"name must be a string, received {name!r}", path=path, field=f"rack {number}")
        if name in inside:
            raise DataError(f"two racks are named '{name}'", path=path, field=f"rack {number}")
        slowness = rack.get("slowness", 1.0)
        count = table.count("devices", len(slowness) if isinstance(slowness, list) else None)
        each = slowness if isinstance(slowness, list) else [slowness] * count
        if len(each) != count or not all(map(_is_positive, each)):
            raise DataError(
                f"slowness must be a positive number, or a list of {count}, one for each device; received {slowness}",
                path=path,
                field=f"rack {number}",
            )
        memory = table.number("memory_gib", 16.0) * _GIB
        devices += [Device(name, float(one), memory) for one in each]
        inside[name] = table.link()
    if not devices:
        raise DataError("has no [[rack]] with devices", path=path)
    between, elsewhere = _links_between(document, list(inside), path)
    return Cluster(tuple(devices), inside, between, elsewhere)


def _links_between(
    document: dict[str, Any], racks: Sequence[str], path: Path
) -> tuple[dict[frozenset[str], Link], Link | None]:
    """The links of pairs of racks, and that of all other pairs."""
    between: dict[frozenset[str], Link] = {}
    elsewhere, known = None, set(racks)
    for number, link in enumerate(_tables(document, "link", path), 1):
        place = f"link {number}"
        table = _Table(link, path, place, ("racks", *_LINK_KEYS))
        if "racks" not in link:
            if elsewhere is not None:
                raise DataError("a second link without racks; give racks to one of them", path=path, field=place)
            elsewhere = table.link()
        else:
            given = link["racks"]
            pair = frozenset(map(str, given)) if isinstance(given, list) else frozenset()
            if len(pair) != 2 or len(given) != 2 or not pair <= known:
                raise DataError(
                    f"racks must be the names of two racks ({', '.join(racks)}), received {given!r}",
                    path=path,
                    field=place,
                )
            if pair in between:
                raise DataError(f"a second link between {' and '.join(sorted(pair))}", path=path, field=place)
            between[pair] = table.link()
    if elsewhere is None:
        missing = next((pair for pair in combinations(racks, 2) if frozenset(pair) not in between), None)
        if missing is not None:
            one, other = missing
            raise DataError(
                f"there is no link between the racks '{one}' and '{other}'; "
                f'add [[link]] with racks = ["{one}", "{other}"], or one without racks for all pairs',
                path=path,
            )
    return between, elsewhere


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _LARGEST


def _tables(document: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise DataError(f"must be tables, each under its own [[{name}]]; received {tables!r}", path=path, field=name)
    return tables


class _Table:
    """One table of the file; its errors name its location."""

    def __init__(self, table: dict[str, Any], path: Path, place: str, known: Sequence[str]) -> None:
        self._table, self._path, self._place = table, path, place
        # Before any value: a misspelt key would be reported as a missing one.
        for name in table:
            if name not in known:
                near = nearest(name, known)
                advice = f"did you mean '{near}'?" if near else f"known: {', '.join(known)}"
                raise DataError(f"{name} is unknown; {advice}", path=path, field=place)

    def number(self, name: str, default: float | None) -> float:
        """A positive number; default None: it is required."""
        value = self._table.get(name, default)
        if value is None:
            raise DataError(f"{name} is missing", path=self._path, field=self._place)
        if not _is_positive(value):
            raise DataError(f"{name} must be a positive number, received {value!r}", path=self._path, field=self._place)
        return float(value)

    def count(self, name: str, default: int | None) -> int:
        value = self.number(name, default)
        if not value.is_integer() or value > _MAX_DEVICES:
            raise DataError(
                f"{name} must be a whole number up to {_MAX_DEVICES:,}, received {value:g}",
                path=self._path,
                field=self._place,
            )
        return int(value)

    def link(self) -> Link:
        bandwidth = self.number("bandwidth_mbit", None) * _MBIT
        return Link(bandwidth, self.number("latency_us", 100.0) / 1e6)
