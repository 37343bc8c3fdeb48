"""From a contract to a folder with everything to build and verify the hardware."""

import json
from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from lanner.accelerators import routed
from lanner.accelerators.contract import Contract, Request
from lanner.accelerators.emulator import Emulator, Timed
from lanner.accelerators.fpga import protocol
from lanner.accelerators.fpga.netlist import (
    DEVICES,
    PACKAGE,
    TARGET_MHZ,
    bitstream_rules,
    constraints,
    multipliers,
    rtlil_on_ecp5,
    shortage,
    synthesis,
    write_verilog,
)
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.accelerators.fpga.verilated import HARNESS, makefile
from lanner.errors import ConfigError
from lanner.files import FolderKind

REPORT = "report.json"
KIND = FolderKind("an accelerator that lanner accelerate wrote", REPORT, lambda report: set(report["files"]) | {REPORT})
_FEWEST_LANES, _SMALLEST = 4, next(iter(DEVICES))
_DESIGNS = {
    "engine.il": "for the device, what `make bitstream` builds: its own multipliers, its global set/reset network",
    "engine.v": "for simulators, what `make` tests: the same engine with multipliers and a reset that they know",
}


def sizes_for(contract: Contract, device: str, k: int) -> Parameters:
    """Sizes of the accelerator for a contract: as many lanes as the device has room for.

    Raises:
        ConfigError: the device is unknown or too small; says by how much, and what would fit.
    """
    if device not in DEVICES:
        raise ConfigError(f"unknown device '{device}'; known: {', '.join(DEVICES)}")
    sizes = sizes_of(contract, k)
    found = _most_lanes(sizes, device)
    if found is None:
        lacking = shortage(replace(sizes, lanes=_FEWEST_LANES), device)
        raise ConfigError(f"{lacking}; {_advice(contract, sizes, device)}")
    return found


def fitting_device(contract: Contract, k: int) -> str | None:
    """The smallest device that fits an accelerator for a contract; None: no known device does."""
    sizes = sizes_of(contract, k)
    return next((name for name in DEVICES if _most_lanes(sizes, name)), None)


def emulated(contract: Contract, k: int) -> Parameters:
    """Sizes of the emulated accelerator: as on the smallest device that fits; else lanes as on the smallest."""
    device = fitting_device(contract, k)
    return sizes_of(contract, k, routed.LANES[_SMALLEST]) if device is None else sizes_for(contract, device, k)


def clock_of(contract: Contract, k: int) -> float:
    """Routed clock in MHz of the device of ``emulated``."""
    return routed.MHZ[fitting_device(contract, k) or _SMALLEST]


def prediction(sizes: Parameters, device: str | None, mhz: float) -> str:
    """How latencies are predicted, in words. device: None: no known device fits the sizes."""
    if device is None:
        return f"predicted from cycles at {mhz:g} MHz; the design fits no known device"
    of_routed = (routed.DIMENSIONS, routed.LANES[device], routed.K, False)
    alike = (sizes.dimensions, sizes.lanes, sizes.k, sizes.item_to_item) == of_routed
    if not alike or sizes.rows > routed.ROWS[device]:
        return f"predicted from cycles at {mhz:g} MHz on an {device}; this design was not routed"
    if mhz != routed.MHZ[device]:
        return f"predicted from cycles at {mhz:g} MHz on an {device}, which was routed at {routed.MHZ[device]:g} MHz"
    return f"predicted from cycles at the routed {mhz:g} MHz of an {device} with {routed.ROWS[device]:,} rows"


def sizes_of(contract: Contract, k: int, lanes: int | None = None) -> Parameters:
    """Sizes that hold a contract, whether or not a device fits them. lanes: maximum; None: as many as dimensions."""
    dimensions = 1 << log2(max(contract.dimensions, _FEWEST_LANES))
    items = max(contract.num_items, 2)
    return Parameters(
        dimensions=dimensions,
        lanes=min(dimensions, lanes or dimensions),
        rows=items * _tables(contract),
        items=items,
        k=k,
        score_shift=contract.score_shift,
        item_to_item=contract.sparse is not None,
        multiplier="ecp5",
    )


def _tables(contract: Contract) -> int:
    return 1 if contract.tied else 2


def _most_lanes(sizes: Parameters, device: str) -> Parameters | None:
    """The sizes with the most lanes that fit a device; None: it is too small."""
    lanes = sizes.dimensions
    while lanes >= _FEWEST_LANES:
        found = replace(sizes, lanes=lanes)
        if not shortage(found, device):
            return found
        lanes //= 2
    return None


def _advice(contract: Contract, sizes: Parameters, device: str) -> str:
    """What would fit in place of sizes that do not fit a device."""
    larger = next((name for name in DEVICES if _most_lanes(sizes, name)), None)
    if larger is not None:
        return f"{larger} fits it"

    def fits(items: int, dimensions: int) -> bool:
        smaller = replace(sizes, dimensions=dimensions, lanes=dimensions, items=items, rows=items * _tables(contract))
        return _most_lanes(smaller, device) is not None

    powers = [1 << bit for bit in range(log2(_FEWEST_LANES), log2(sizes.dimensions))]
    items = bisect(range(2, sizes.items), False, key=lambda items: not fits(items, sizes.dimensions)) + 1
    dimensions = max((one for one in powers if fits(sizes.items, one)), default=0)
    found = [f"{items:,} items of {sizes.dimensions:,} dimensions"] if items > 1 else []
    found += [f"{sizes.items:,} items of {dimensions:,} dimensions"] if dimensions else []
    return f"it fits {' or '.join(found)}" if found else "give fewer items, dimensions and a shorter list"


def files_of(
    contract: Contract, requests: Sequence[Request], sizes: Parameters, device: str, mhz: float, folder: Path
) -> dict[str, bytes]:
    """The folder's files by name. folder: working directory of the tools.

    The design for the device with constraints and Yosys's scripts, and for simulators in Verilog; the contract, the
    words that load the tables, a test bench with requests and expected answer words; a Makefile that compares them and
    makes a bitstream; and a report with the latency predicted from cycles at a clock of ``mhz``.
    """
    answers = Emulator(contract, sizes).answer(requests)
    asks = [protocol.request_packet(request, contract.sparse) for request in requests]
    verilog = write_verilog(replace(sizes, multiplier="inferred"), folder).read_bytes()
    target = TARGET_MHZ if mhz == routed.MHZ[device] else mhz
    files = {
        "engine.v": verilog,
        "engine.il": rtlil_on_ecp5(replace(sizes, multiplier="ecp5")).encode(),
        "engine.ys": synthesis("build/engine.json", abc9=True).encode(),
        "engine-abc.ys": synthesis("build/engine.json", abc9=False).encode(),
        "engine.lpf": constraints(target).encode(),
        "contract.safetensors": save({name: np.ascontiguousarray(one) for name, one in contract.arrays().items()}),
        "contract.json": json.dumps({**contract.facts, "sha256": contract.digest}, indent=1).encode(),
        "load.bin": _entries(protocol.load(contract, sizes), protocol.settings(contract)),
        "requests.bin": _entries(asks, {}),
        "answers.bin": np.concatenate([_words(one) for one in answers]).tobytes(),
        "bench.cpp": HARNESS.read_bytes(),
        "Makefile": (makefile(len(requests)) + bitstream_rules(DEVICES[device])).encode(),
    }
    report = {
        "device": device,
        "package": PACKAGE,
        "designs": _DESIGNS,
        "clock": {"mhz": mhz, "target_mhz": target, "routed": _routed_design(device)},
        "sizes": asdict(sizes),
        "memories": sizes.block_rams,
        "multipliers": multipliers(sizes),
        "contract": contract.digest,
        "requests": len(requests),
        "latency_us": _latencies(answers, mhz),
        "latency_is": f"{prediction(sizes, device, mhz)}; without the link to the host",
        "files": sorted(files),
    }
    return files | {REPORT: json.dumps(report, indent=1).encode()}


def _routed_design(device: str) -> dict[str, Any]:
    """What was placed and routed for a device: its clock, sizes, and the commit of its sources."""
    of = {"dimensions": routed.DIMENSIONS, "lanes": routed.LANES[device], "rows": routed.ROWS[device], "k": routed.K}
    return {"mhz_median": routed.MHZ[device], "commit": routed.COMMIT[device], **of, "item_to_item": False}


def _entries(packets: Sequence[protocol.Packet], registers: dict[protocol.Register, int]) -> bytes:
    """In the test bench's format: 64 bits per entry, see ``harness.cpp``."""
    writes = np.array([1 << 33 | register << 40 | value for register, value in registers.items()], np.uint64)
    words = [packet.astype(np.uint64) for packet in packets]
    for packet in words:
        packet[-1] |= np.uint64(1 << 32)
    return np.concatenate([writes, *words]).astype("<u8").tobytes()


def _words(timed: Timed) -> NDArray[np.uint32]:
    """An answer in the accelerator's format, followed by its cycles, as the test bench writes them."""
    pairs = np.stack([timed.answer.rows, timed.answer.scores], axis=1).reshape(-1)
    return np.concatenate([pairs, [0, timed.cycles]]).astype(np.int64).astype(np.uint32)


def _latencies(answers: Sequence[Timed], mhz: float) -> dict[str, Any]:
    times = [one.microseconds(mhz) for one in answers]
    return {name: float(np.percentile(times, share)) for name, share in (("p50", 50), ("p99", 99), ("max", 100))}
