"""The command that shows where time is spent: in a request to a bundle, or in a training step."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lanner.cli import console
from lanner.cli.options import TEXT_IGNORED, AsJson, Threads
from lanner.errors import ConfigError, optional_module

if TYPE_CHECKING:
    from lanner.distributed.config import EngineConfig

_OF_REQUESTS = ("variant", "backend", "text", "requests", "threads")
_OF_TRAINING = ("model", "parallel", "schedule", "micro_batches", "rows", "tokens", "device", "dtype")

_Backend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help="Runtime of the text encoder: torch, onnxruntime or openvino. Default: the fastest installed.",
    ),
]
_Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option("--device", help="With --training: cpu or cuda; auto: on GPUs if there is one for each rank."),
]
_Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(
        "--dtype", help="With --training: compute dtype; auto: bfloat16 where the device supports it natively."
    ),
]


def profile(
    context: typer.Context,
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder of a bundle, as lanner run writes it.", metavar="BUNDLE")
    ] = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Only this variant; repeatable. Default: all.")
    ] = None,
    backend: _Backend = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Text to send with each request, for models that read texts.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Number of requests to time.")] = 200,
    threads: Threads = 2,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a plot to this file (.svg or .png).")] = None,
    training: Annotated[bool, typer.Option("--training", help="Profile a training step on local processes.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="With --training: language model, a folder or a name. Default: the bundled encoder."
        ),
    ] = None,
    parallel: Annotated[
        str, typer.Option("--parallel", help="With --training: degrees of parallelism, such as pp=2,replicate=2.")
    ] = "pp=2",
    schedule: Annotated[
        str, typer.Option("--schedule", help="With --training: pipeline schedule; see docs/distributed.md.")
    ] = "1f1b",
    micro_batches: Annotated[
        int, typer.Option("--micro-batches", min=1, help="With --training: micro-batches per replica.")
    ] = 8,
    rows: Annotated[int, typer.Option("--rows", min=1, help="With --training: texts per batch.")] = 32,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="With --training: tokens per text.")] = 32,
    device: _Device = "auto",
    dtype: _Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the latency of each stage of a request, per variant, with the lower bound that the hardware sets.

    With --training: how the ranks spend a training step of the language model, pipeline bubble included.

    \b
    Examples:
      lanner profile lanner-bundle
      lanner profile lanner-bundle --variant int8 --backend onnxruntime --text "slow science fiction" --plot time.svg
      lanner profile --training --parallel pp=4 --schedule zero-bubble --plot step.svg
    """
    if training == (bundle is not None):
        raise ConfigError("lanner profile: give either a BUNDLE or --training")
    _check_used(context, training)
    _check_picture(plot)
    if bundle is None:
        settings = _step_settings(parallel, schedule, micro_batches)
        _of_training(model, settings, rows, tokens, device, dtype, plot=plot, as_json=as_json)
    else:
        _of_bundle(bundle, variant or (), backend, text, requests, threads, plot=plot, as_json=as_json)


def _check_used(context: typer.Context, training: bool) -> None:
    """Raises ``ConfigError`` for an option that was given and has no effect on what is profiled."""
    for name in _OF_REQUESTS if training else _OF_TRAINING:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option, joined = name.replace("_", "-"), "with" if training else "without"
            raise ConfigError(f"lanner profile: --{option} has no effect {joined} --training; leave it out")


def _of_bundle(
    bundle: Path,
    variants: Sequence[str],
    backend: str | None,
    text: str | None,
    requests: int,
    threads: int,
    *,
    plot: Path | None,
    as_json: bool,
) -> None:
    from lanner.artifacts.bundle import read_bundle
    from lanner.serving.profile import draw, machine_ceilings, predicted
    from lanner.serving.profile import profile as profiled

    if backend == "fpga-emulator":
        raise ConfigError(
            "--backend fpga-emulator: is an option of lanner serve; leave it out: the accelerator has a row of its own"
        )
    if backend is not None and text is None:
        raise ConfigError(f"--backend {backend} affects only the text encoder; add --text")
    opened = read_bundle(bundle)
    found = profiled(opened, variants, requests=requests, text=text, backend=backend, threads=threads)
    ceilings = machine_ceilings()
    if text is not None and opened.text_files is None:
        console.complain(TEXT_IGNORED)
    if plot is not None:
        draw(plot, found)
    stages: list[tuple[str, str, float, float, float | str]] = [
        (name, one.stage, one.p50_ms, one.p99_ms, one.bound_ms(ceilings))
        for name, times in found.items()
        for one in times
    ]
    if not variants and find_spec("amaranth") is not None:
        row = predicted(opened, requests)
        stages += [] if row is None else [(row.variant, row.stated, row.p50_ms, row.p99_ms, "")]
    columns = ("variant", "stage", "p50 ms", "p99 ms", "bound ms")
    if as_json:
        console.show_json({"ceilings": ceilings, "stages": [dict(zip(columns, row, strict=True)) for row in stages]})
    else:
        console.show_table(f"{requests} requests", columns, stages)


def _step_settings(parallel: str, schedule: str, micro_batches: int) -> "EngineConfig":
    from lanner.distributed.config import EngineConfig
    from lanner.distributed.degrees import Degrees

    return EngineConfig(Degrees.parse(parallel), schedule, micro_batches)


def _of_training(
    model: str | None,
    settings: "EngineConfig",
    rows: int,
    tokens: int,
    device: Literal["auto", "cpu", "cuda"],
    dtype: Literal["auto", "float32", "bfloat16"],
    *,
    plot: Path | None,
    as_json: bool,
) -> None:
    optional_module("torch", "torch", "language", "lanner profile --training")
    from lanner.distributed import timeline
    from lanner.distributed.launch import check_settings

    check_settings(settings)
    spans = timeline.measure(model, settings, rows, tokens, device, dtype)
    shares = {what: timeline.share(spans, what) for what in timeline.KINDS}
    seconds = max(one.end for one in spans)
    line = (
        f"{settings.schedule}, {settings.degrees.arithmetic}, {settings.micro_batches} micro-batches: "
        f"{seconds * 1e3:,.0f} ms a step"
    )
    if plot is not None:
        timeline.draw(plot, spans, line)
    if as_json:
        console.show_json({"seconds": seconds, "shares": shares, "spans": [one._asdict() for one in spans]})
        return
    console.show_line(f"{line}; " + ", ".join(f"{what} {part:.0%}" for what, part in shares.items() if part))


def _check_picture(path: Path | None) -> None:
    """Raises ``ConfigError`` if no plot can be written to ``path``, before anything is measured."""
    if path is None:
        return
    optional_module("matplotlib", "matplotlib", "plot", f"--plot {path}")
    from lanner.files import is_writable

    if path.suffix.lower() not in (".svg", ".png"):
        raise ConfigError(f"--plot {path}: the name must end in .svg or .png")
    if path.is_dir() or not path.absolute().parent.is_dir() or not is_writable(path.absolute().parent):
        raise ConfigError(f"--plot {path}: cannot be written there; give a file in a folder that you may write to")
