"""The command that builds hardware from a bundle: accelerate."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from lanner.cli import console
from lanner.cli.options import AsJson, BundlePath
from lanner.errors import ConfigError, optional_module

_BENCH_USERS, _MAX_MHZ = 20, 1000


def accelerate(
    bundle: BundlePath,
    device: Annotated[str, typer.Option("--device", help="FPGA to build for: ecp5-25f or ecp5-85f.")] = "ecp5-85f",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; default: BUNDLE-accelerator.")] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant to build; default: the first of distilled, int8, full.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=255, help="Maximum list length.")] = 10,
    clock_mhz: Annotated[
        float | None,
        typer.Option(
            "--clock-mhz",
            help="Target clock, also used to predict latencies; default: the routed clock, with its own higher target.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an accelerator for a bundle: the design, tables, the integer contract, a test bench, and a report.

    In the folder, `make` simulates the test bench and `make bitstream` places and routes the design.

    \b
    Examples:
      lanner accelerate lanner-bundle-compressed
      lanner accelerate lanner-bundle --device ecp5-25f --out hardware --json
    """
    import numpy as np

    optional_module("amaranth", "amaranth", "fpga", "an accelerator")
    from lanner.accelerators import routed
    from lanner.accelerators.build import KIND, REPORT, files_of, sizes_for
    from lanner.accelerators.contract import contract_of, requests_of
    from lanner.artifacts.bundle import check_apart, read_bundle
    from lanner.files import check_replaceable, write_folder
    from lanner.serving.acceleration import source_of

    if clock_mhz is not None and not 1 <= clock_mhz <= _MAX_MHZ:
        raise ConfigError(f"--clock-mhz {clock_mhz:g}: give 1 to {_MAX_MHZ}")
    opened = read_bundle(bundle)
    name = variant or source_of(opened)
    folder = bundle.with_name(f"{bundle.name}-accelerator") if out is None else out
    check_apart(bundle, folder)
    check_replaceable(folder, KIND)
    chosen, users = opened.variant(name), opened.dataset.user_batch()
    if not chosen.model.is_personal:
        raise ConfigError(f"--variant {name}: its lists do not depend on the user and need no accelerator")
    contract = contract_of(chosen.model, opened.dataset, chosen.figures.get("contract"))
    order = np.random.default_rng(0).permutation(len(users))
    sizes = sizes_for(contract, device, k)
    requests = requests_of(contract, chosen.model, users.take(np.sort(order[:_BENCH_USERS])), k)
    mhz = routed.MHZ[device] if clock_mhz is None else clock_mhz
    with tempfile.TemporaryDirectory() as work:
        files = files_of(contract, requests, sizes, device, mhz, Path(work))
    write_folder(folder, files, kind=KIND)
    report = json.loads(files[REPORT])
    line = (
        f"Wrote {folder}: {name} on {device} with {sizes.lanes} lanes; a list of {k} is predicted to take "
        f"{report['latency_us']['p50']:.1f} µs at {mhz:g} MHz"
    )
    console.show_result({"folder": str(folder), "variant": name, **report}, line, as_json=as_json)
