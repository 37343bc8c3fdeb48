"""Racks of network namespaces on this machine, one rank each, joined by links of a set bandwidth. Needs root on Linux.

All bridges live in a namespace of their own: nothing leaves the machine.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

PREFIX = f"lr{os.getpid() % 1000}"
"""Name prefix of the namespaces that this process creates."""
_NEW_NETWORK = 0x40000000
_BURST_S = 0.002
"""Burst of a link in seconds of its bandwidth: with less, shapers do not reach 1 Gbit/s; with more, small messages
would see a faster link than there is."""
_LEAST_BURST = 8_000
"""Bytes; a shaper drops packets that exceed its burst."""


def can_be_built() -> bool:
    """Whether this process may create namespaces."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in ("ip", "tc"))


class NetworkRacks:
    """``ranks`` namespaces in racks of ``size``, at ``host_mbit``; racks are joined at ``core_mbit``."""

    def __init__(self, ranks: int, size: int, host_mbit: int, core_mbit: int) -> None:
        self._ranks, self._size, self._host_mbit, self._core_mbit = ranks, size, host_mbit, core_mbit

    def __enter__(self) -> "NetworkRacks":
        switch = f"{PREFIX}sw"
        _run(f"ip netns add {switch}")
        for rack in range(-(-self._ranks // self._size)):
            _run(f"ip -n {switch} link add br{rack} type bridge")
            _run(f"ip -n {switch} link set br{rack} up")
            if rack:
                _run(f"ip -n {switch} link add ca{rack} type veth peer name cb{rack}")
                for end, bridge in ((f"ca{rack}", "br0"), (f"cb{rack}", f"br{rack}")):
                    _run(f"ip -n {switch} link set {end} master {bridge}")
                    _run(f"ip -n {switch} link set {end} up")
                    _shape(switch, end, self._core_mbit)
        for rank in range(self._ranks):
            host = f"{PREFIX}h{rank}"
            _run(f"ip netns add {host}")
            _run(f"ip -n {host} link set lo up")
            _run(f"ip link add {PREFIX}v{rank} netns {host} type veth peer name p{rank} netns {switch}")
            _run(f"ip -n {host} link set {PREFIX}v{rank} name e0")
            _run(f"ip -n {host} addr add 10.77.0.{rank + 1}/24 dev e0")
            _run(f"ip -n {host} link set e0 up")
            _run(f"ip -n {switch} link set p{rank} master br{rank // self._size}")
            _run(f"ip -n {switch} link set p{rank} up")
            for space, end in ((host, "e0"), (switch, f"p{rank}")):
                _shape(space, end, self._host_mbit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in (*(f"h{rank}" for rank in range(self._ranks)), "sw"):
            subprocess.run(["ip", "netns", "del", f"{PREFIX}{name}"], check=False, capture_output=True)


def enter(prefix: str, rank: int) -> None:
    """Move this process into the namespace of a rank; its collectives then run over the shaped links.

    prefix: ``PREFIX`` in the process that created the racks.
    """
    with Path(f"/var/run/netns/{prefix}h{rank}").open() as space:
        if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), "the network namespace cannot be entered")
    os.environ["GLOO_SOCKET_IFNAME"] = "e0"


def burst_bytes(bandwidth: float) -> int:
    """Bytes that pass at once after a pause on a link of ``bandwidth`` bytes per second."""
    return max(_LEAST_BURST, int(_BURST_S * bandwidth))


def bytes_sent() -> int:
    """Bytes sent from this process's namespace, including headers, by the kernel's counters."""
    line = next(line for line in Path("/proc/thread-self/net/dev").read_text().splitlines() if "e0:" in line)
    return int(line.split(":")[1].split()[8])


def _shape(space: str, device: str, mbit: int) -> None:
    burst = burst_bytes(mbit * 1e6 / 8)
    _run(f"ip netns exec {space} tc qdisc add dev {device} root tbf rate {mbit}mbit burst {burst} latency 200ms")


def _run(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)
