"""From a contract to a folder with everything to build and verify the hardware."""

import json
from collections.abc import Sequence
from contextlib import suppress
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
from lanner.accelerators.fpga.netlist import DEVICES, PACKAGE, check_device, constraints, multipliers, write_verilog
from lanner.accelerators.fpga.parameters import Parameters, log2
from lanner.errors import ConfigError
from lanner.files import FolderKind

REPORT = "report.json"
KIND = FolderKind("an accelerator that lanner accelerate wrote", REPORT, lambda report: set(report["files"]) | {REPORT})
_HARNESS = Path(protocol.__file__).with_name("harness.cpp")


def sizes_for(contract: Contract, device: str, k: int) -> Parameters:
    """Sizes of the accelerator for a contract: as many lanes as the device has multipliers for.

    Raises:
        ConfigError: the device is unknown or too small; says by how much, and what would fit.
    """
    if device not in DEVICES:
        raise ConfigError(f"unknown device '{device}'; known: {', '.join(DEVICES)}")
    sizes = _sizes(contract, k, contract.dimensions)
    while sizes.lanes > 4 and multipliers(sizes) > DEVICES[device].multipliers:
        sizes = replace(sizes, lanes=sizes.lanes // 2)
    check_device(sizes, device)
    return sizes


def emulated(contract: Contract, k: int) -> Parameters:
    """Sizes of the emulated accelerator: lanes as in the routed design, memories as deep as needed."""
    return _sizes(contract, k, routed.LANES)


def fitting_device(contract: Contract, k: int) -> str | None:
    """The smallest device that fits such an accelerator; None: no known device does."""
    for name in DEVICES:
        with suppress(ConfigError):
            check_device(emulated(contract, k), name)
            return name
    return None


def _sizes(contract: Contract, k: int, lanes: int) -> Parameters:
    """lanes: maximum, rounded up to a power of two."""
    dimensions = 1 << log2(max(contract.dimensions, 4))
    items = max(contract.num_items, 2)
    return Parameters(
        dimensions=dimensions,
        lanes=min(dimensions, 1 << log2(max(lanes, 4))),
        rows=items * (1 if contract.tied else 2),
        items=items,
        k=k,
        score_shift=contract.score_shift,
        item_to_item=contract.sparse is not None,
        multiplier="ecp5",
    )


def files_of(
    contract: Contract, requests: Sequence[Request], sizes: Parameters, device: str, mhz: float, folder: Path
) -> dict[str, bytes]:
    """The folder's files by name. folder: working directory of the tools.

    Verilog, constraints, the contract, the words that load the tables, a test bench with requests and expected answer
    words, and a report with the latency predicted from cycles at a clock of ``mhz``.
    """
    answers = Emulator(contract, sizes).answer(requests)
    asks = [protocol.request_packet(request, contract.sparse) for request in requests]
    verilog = write_verilog(replace(sizes, multiplier="inferred"), folder).read_bytes()
    files = {
        "engine.v": verilog,
        "engine.lpf": constraints(mhz).encode(),
        "contract.safetensors": save({name: np.ascontiguousarray(one) for name, one in contract.arrays().items()}),
        "contract.json": json.dumps({**contract.facts, "sha256": contract.digest}, indent=1).encode(),
        "load.bin": _entries(protocol.load(contract, sizes), protocol.settings(contract)),
        "requests.bin": _entries(asks, {}),
        "answers.bin": np.concatenate([_words(one) for one in answers]).tobytes(),
        "bench.cpp": _HARNESS.read_bytes(),
    }
    report = {
        "device": device,
        "package": PACKAGE,
        "sizes": asdict(sizes),
        "memories": sizes.block_rams,
        "multipliers": multipliers(sizes),
        "contract": contract.digest,
        "requests": len(requests),
        "latency_us": _latencies(answers, mhz),
        "latency_is": f"predicted from cycles at {mhz:g} MHz, without the link to the host",
        "files": sorted(files),
    }
    return files | {REPORT: json.dumps(report, indent=1).encode()}


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
