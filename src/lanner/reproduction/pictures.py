"""Figures of the report, as inline SVG; needs the extra ``plot``."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from math import log2
from typing import Any

from lanner.errors import optional_module
from lanner.reproduction.claims import Results, reading, results_of

_COLUMNS = (
    ("ml-latest-small", "random-80-20"),
    ("ml-1m", "random-80-20"),
    ("amazon-scientific-2018-unisrec", "leave-last-out"),
)
_GREYS = ("0.25", "0.55", "0.8")
_SERVERS = (
    ("lanner", "k-"),
    ("fastapi", "k--"),
    ("mlserver", "k-."),
    ("litserve", "k:"),
    ("bentoml", "k:"),
    ("ray_serve", "k:"),
)
_PHASES = (("before", "before"), ("during", "overload"), ("after", "after"))
_SHADES = {"full": "0.1", "int8": "0.3", "pruned": "0.45", "distilled": "0.6", "popularity": "0.8", "rejected": "1"}
"""Of what became of a request, best first."""
_STAGES = {"encode": "0.2", "aggregate": "0.45", "retrieve": "0.65", "rank": "0.85", "explain": "1"}
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "lanner", "font.size": 9}
_REASONS = 6
_EPSILON = "ease-epsilon-"
_BOX = {"boxstyle": "round", "facecolor": "1", "edgecolor": "0", "linewidth": 0.6}


Drawn = tuple[str, str, Any]
"""Caption, SVG, and the data that were drawn."""


@dataclass(frozen=True)
class Picture:
    """svg: without a header. caption: what it shows. source: the result file. data: what was drawn, as JSON."""

    svg: str
    caption: str
    source: str
    data: str


def check_matplotlib() -> None:
    """Raises ``MissingExtraError`` if matplotlib is not installed."""
    optional_module("matplotlib", "matplotlib", "plot", "drawing pictures")


def pictures_of(results: Results) -> list[Picture]:
    """The figures for which there are results.

    Raises:
        MissingExtraError: matplotlib is not installed. ConfigError: something in a result file has the wrong type.
    """
    plot = optional_module("matplotlib", "matplotlib", "plot", "drawing pictures")
    plot.use("Agg")
    found = []
    with plot.rc_context(_STYLE):
        for source, draw in _DRAWN:
            with reading(source):
                for caption, svg, data in draw(results_of(results, source)):
                    found.append(Picture(svg, caption, source, json.dumps(data)))
    return found


def _suite(quality: Mapping[str, Any]) -> Iterator[Drawn]:
    for dataset, protocol in _COLUMNS:
        rows = quality.get(dataset, {}).get(protocol, {})
        if "hybrid" in rows:
            yield f"NDCG@10 with 95 % intervals: {dataset}, {protocol}", *_bars(rows)


def _ablation(found: Mapping[str, Any]) -> Iterator[Drawn]:
    for dataset, table in found.items():
        with reading("ablation"):
            place = f"{dataset}, {table['protocol']}"
            yield f"NDCG@10 of the hybrid's pieces and of the hybrid without each: {place}", *_bars(table["rows"])


def _race(found: Mapping[str, Any]) -> Iterator[Drawn]:
    figure = _figure(6, 2.8)
    axes = figure.subplots()
    rows = {name: _numbers(row["seconds"], row["ndcg_at_20"]) for name, row in found["lanner"].items()}
    for marker, (name, (seconds, quality)) in zip("so^D", rows.items(), strict=False):
        axes.plot(seconds, quality, f"k{marker}", markersize=5, label=name)
    epochs = [_numbers(epoch["seconds"], epoch["ndcg_at_20"]) for epoch in found["lightgcn"]["epochs"]]
    times = list(accumulate(seconds for seconds, _ in epochs))
    axes.plot(times, [quality for _, quality in epochs], "k-", marker=".", label="LightGCN")
    end, target = _numbers(found["summary"]["peer_seconds_extrapolated"], found["target"])
    axes.plot([times[-1], end], [epochs[-1][1], target], "k:", label="LightGCN, extrapolated")
    axes.axhline(target, color=_GREYS[1], linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("processor seconds")
    axes.set_ylabel("NDCG@20")
    axes.legend(fontsize=7)
    yield "Processor seconds to NDCG@20: gowalla-lightgcn", _svg(figure), found


def _learning(found: Mapping[str, Any]) -> Iterator[Drawn]:
    styles = ("-", "--", "-.", ":")
    for dataset, rows in found.items():
        if dataset == "summary":
            continue
        with reading("lora"):
            curves = {name: row["curves"][0] for name, row in rows.items() if row["curves"][0]}
            if not curves:
                continue
            figure = _figure(6, 2.8)
            axes = figure.subplots()
            for place, (name, curve) in enumerate(curves.items()):
                style, shade = styles[place % len(styles)], _GREYS[place // len(styles)]
                points = [_numbers(*point) for point in curve]
                axes.plot(*zip(*points, strict=True), style, color=shade, marker="x", markersize=3, label=name)
            axes.set_xlabel("processor seconds")
            axes.set_ylabel("NDCG@10")
            axes.legend(fontsize=7)
            yield f"NDCG@10 on validation while the language model learns: {dataset}", _svg(figure), curves


def _decay(published: Mapping[str, Any]) -> Iterator[Drawn]:
    found = {dataset: next(iter(seeds.values()))["windows"] for dataset, seeds in published["windows"].items() if seeds}
    if not found:
        return
    figure = _figure(7, 2.6)
    for axes, (dataset, windows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for style, name in zip(("k:", "k--", "k-"), ("none", "update", "retrain"), strict=True):
            values = _numbers(*(window["ndcg_at_10"]["halfway"][name] for window in windows))
            axes.plot(range(1, len(values) + 1), values, style, label=name)
        axes.set_xticks(range(1, len(windows) + 1))
        axes.set_title(dataset, fontsize=9)
        axes.set_xlabel("window")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=8)
    yield "NDCG@10 by chronological window: no update, update, trained anew", _svg(figure), found


def _frontier(found: Mapping[str, Any]) -> Iterator[Drawn]:
    points = {
        (variant, backend): _numbers(row["p50_ms"], row["ndcg_at_10"])
        for variant, backends in found["ml-1m"].items()
        if variant != "popularity"  # so far below the others that these would coincide
        for backend, row in (backends.items() if isinstance(backends, Mapping) else ())
        if isinstance(row, Mapping) and "p50_ms" in row and "ndcg_at_10" in row
    }
    if not points:
        return
    figure = _figure(6, 3.2)
    axes = figure.subplots()
    markers = dict(zip(dict.fromkeys(variant for variant, _ in points), "o^sDvP", strict=False))
    shades = dict(zip(dict.fromkeys(backend for _, backend in points), ("1", "0.6", "0"), strict=False))
    for (variant, backend), point in points.items():
        axes.plot(*point, markers[variant], color=shades[backend], markeredgecolor="0", markersize=7, linestyle="")
    for variant, marker in markers.items():
        axes.plot([], [], marker, color="0.85", markeredgecolor="0", label=variant)
    for backend, shade in shades.items():
        axes.plot([], [], "s", color=shade, markeredgecolor="0", markersize=9, label=backend)
    times, qualities = zip(*points.values(), strict=True)
    _doubling(axes, [2.0**power for power in range(int(log2(min(times))), int(log2(max(times))) + 2)])
    # At least one per cent, so that small differences look small.
    axes.set_ylim(min(0.99 * max(qualities), 0.999 * min(qualities)), 1.001 * max(qualities))
    axes.set_xlabel("p50 of a request, ms")
    axes.set_ylabel("NDCG@10")
    figure.legend(fontsize=7, loc="outside right center")
    caption = "Latency (p50) of the variants and the NDCG@10 that they keep: ml-1m; shapes: variants, shades: backends"
    yield caption, _svg(figure), {f"{variant} {backend}": point for (variant, backend), point in points.items()}


def _stacks(found: Mapping[str, Any]) -> Iterator[Drawn]:
    """Milliseconds of a request by stage, one bar a variant."""
    variants = {name: stages for name, stages in found["ml-1m"]["stages"].items() if "encode" in stages}
    if not variants:
        return
    figure = _figure(6, 2.6)
    axes = figure.subplots()
    for place, stages in enumerate(variants.values()):
        begin = 0.0
        for stage, shade in _STAGES.items():
            (width,) = _numbers(stages.get(stage, 0.0))
            label = "" if place else stage
            axes.barh(place, width, left=begin, color=shade, edgecolor="black", linewidth=0.6, label=label)
            begin += width
    axes.set_yticks(range(len(variants)), list(variants))
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    figure.legend(fontsize=7, ncols=len(_STAGES), loc="outside upper center")
    yield "Latency by stage of a request with a new text, by variant: ml-1m", _svg(figure), variants


def _privacy(found: Mapping[str, Any]) -> Iterator[Drawn]:
    rows = {name: row for name, row in found["rows"].items() if name.startswith(_EPSILON)}
    noisy = sorted(
        _numbers(name.removeprefix(_EPSILON), row["ndcg_at_10"], *row["ci95"]["ndcg_at_10"])
        for name, row in rows.items()
    )
    if not noisy:
        return
    (exact,) = _numbers(found["rows"]["ease"]["ndcg_at_10"])
    figure = _figure(6, 2.8)
    axes = figure.subplots()
    axes.plot(
        [point[0] for point in noisy], [point[1] for point in noisy], "k-o", markersize=4, label="EASE with noise"
    )
    for epsilon, _, low, high in noisy:
        axes.plot([epsilon, epsilon], [low, high], "k-", linewidth=1.2, marker="_")
    axes.axhline(exact, color=_GREYS[1], linewidth=0.8, label="without noise")
    axes.set_xlabel("ε for each user")
    axes.set_ylabel("NDCG@10")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    yield "Federated EASE: NDCG@10 against the ε of differential privacy, 95 % intervals, ml-1m", _svg(figure), rows


def _load(found: Mapping[str, Any]) -> Iterator[Drawn]:
    curves = {}
    for name, _ in _SERVERS:
        steps = found["saturation"]["100000"].get(name, {}).get("steps", [])
        if steps:
            curves[name] = sorted(_numbers(one["offered_per_s"], one["personal_goodput_per_s"]) for one in steps)
    if not curves:
        return
    figure = _figure(6, 3.2)
    axes = figure.subplots()
    for name, style in _SERVERS:
        if points := curves.get(name):
            axes.plot(*zip(*points, strict=True), style, label=name, marker=".", markersize=4, linewidth=1.2)
            axes.annotate(
                name, max(points, key=lambda one: one[1]), fontsize=7, xytext=(3, 4), textcoords="offset points"
            )
    axes.set_ylim(0, 1.1 * max(goodput for points in curves.values() for _, goodput in points))
    axes.set_xlim(left=0)
    axes.axline((0, 0), slope=1, color="0.6", linewidth=0.6)
    axes.set_xlabel("requests a second")
    axes.set_ylabel("personal answers in time a second")
    yield (
        "Personal answers within the deadline against requests: 100,000 items; thin: all in time",
        _svg(figure),
        curves,
    )


def _phases(found: Mapping[str, Any]) -> Iterator[Drawn]:
    overload = found["overload"]
    phases = {shown: overload[name] for name, shown in _PHASES}
    figure = _figure(6, 2.2)
    axes = figure.subplots()
    for place, phase in enumerate(phases.values()):
        begin, answered = 0.0, phase["answered_per_s"] / phase["offered_per_s"]
        shares = {one: share * answered for one, share in phase["answered_by"].items()} | {"rejected": 1 - answered}
        for variant, shade in _SHADES.items():
            share = max(shares.get(variant, 0.0), 0.0)
            axes.barh(
                place, share, left=begin, color=shade, edgecolor="black", linewidth=0.6, label="" if place else variant
            )
            begin += share
    axes.set_yticks(range(3), [f"{shown}: {phase['offered_per_s']:,.0f}/s" for shown, phase in phases.items()])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the requests that came")
    figure.legend(fontsize=7, ncols=len(_SHADES), loc="outside upper center")
    again = f"all in time again after {overload['recovered_s']:.1f} s"
    yield f"Overload and recovery: what became of requests; {again}", _svg(figure), phases


def _recovery(found: Mapping[str, Any]) -> Iterator[Drawn]:
    """Finished steps over time, one shape for each number of ranks; a vertical line where some were lost."""
    runs = {
        "one rank killed every minute": found["killed"]["timeline"],
        "half of the ranks lost for a while": found["elastic"]["timeline"],
    }
    figure = _figure(7, 2.8)
    for axes, (name, timeline) in zip(figure.subplots(1, 2), runs.items(), strict=True):
        points = [_numbers(*point) for point in timeline["steps"]]
        for ranks, marker in zip(sorted({point[2] for point in points}, reverse=True), "ox", strict=False):
            places = [(seconds, step) for seconds, step, world in points if world == ranks]
            axes.plot(*zip(*places, strict=True), marker, color="0", markersize=3, label=f"{ranks:g} ranks")
        for place, lost in enumerate(_numbers(*timeline["lost_at_s"])):
            axes.axvline(lost, color=_GREYS[1], linewidth=0.8, linestyle="--", label="" if place else "ranks lost")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("seconds")
        axes.set_ylabel("step")
        axes.legend(fontsize=7)
    yield (
        "Training while ranks are killed: each finished step; after a loss all resume from the last checkpoint",
        _svg(figure),
        runs,
    )


def _memory(found: Mapping[str, Any]) -> Iterator[Drawn]:
    mib = _numbers(*found["soak"]["memory_mib"])
    if not mib:
        return
    figure = _figure(6, 2.2)
    axes = figure.subplots()
    axes.plot([10 * place / max(len(mib) - 1, 1) for place in range(len(mib))], mib, "k-", linewidth=1)
    axes.set_ylim(0, 1.1 * max(mib))
    axes.set_xlabel("minutes")
    axes.set_ylabel("MiB")
    yield "Memory of the server and its workers over ten minutes of load", _svg(figure), mib


def _workers(found: Mapping[str, Any]) -> Iterator[Drawn]:
    rows = [
        _numbers(one["workers"], one["load"], one["goodput_share"])
        for one in found["simulator"]["many_workers"]["rows"]
    ]
    if not rows:
        return
    figure = _figure(6, 2.6)
    axes = figure.subplots()
    for style, load in zip(("k-", "k--"), sorted({row[1] for row in rows}), strict=False):
        points = [(row[0], row[2]) for row in rows if row[1] == load]
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, label=f"{load:g} × what they can answer")
    _doubling(axes, {row[0] for row in rows})
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("workers")
    axes.set_ylabel("share answered in time")
    axes.legend(fontsize=8)
    yield "Answers in time by number of workers, load in proportion; simulated", _svg(figure), rows


def _devices(found: Mapping[str, Any]) -> Iterator[Drawn]:
    rows = found["scaling_estimated"]
    points = sorted(_numbers(row["devices"], row["rows_per_s"]) for row in rows)
    if not points:
        return
    figure = _figure(6, 2.8)
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), "k-", marker="o", markersize=4, label="planned parallelism, estimated")
    (devices, speed), last = points[0], points[-1][0]
    axes.plot([devices, last], [speed, speed * last / devices], "k:", linewidth=0.8, label="proportional")
    _doubling(axes, {point[0] for point in points})
    axes.set_yscale("log")
    axes.set_xlabel("devices")
    axes.set_ylabel("rows a second")
    axes.legend(fontsize=8)
    yield "Training throughput by number of devices: estimated by the simulator, not run", _svg(figure), rows


def _reasons(explained: Mapping[str, Any]) -> Iterator[Drawn]:
    """User, what the user chose, and the recommended item; a line is as thick as its contribution."""
    parts = [(part["name"], *_numbers(part["value"])) for part in explained["parts"][:_REASONS]]
    (score,) = _numbers(explained["score"])
    shown = [*parts, ("all else", score - sum(value for _, value in parts))]
    figure = _figure(7, 3.2)
    axes = figure.subplots()
    middle = (len(shown) - 1) / 2
    thickest = max(abs(value) for _, value in shown) or 1.0
    for place, (name, value) in enumerate(shown):
        style = {"color": _GREYS[1], "linestyle": "-" if value >= 0 else ":", "zorder": 1}
        axes.plot([0, 1], [middle, place], color=_GREYS[2], linewidth=0.8, zorder=1)
        axes.plot([1, 2], [place, middle], linewidth=0.5 + 6 * abs(value) / thickest, **style)
        axes.text(1, place, f"{name}  {value:+.3f}", ha="center", va="center", fontsize=7, bbox=_BOX)
    axes.text(0, middle, explained["user"], ha="center", va="center", bbox=_BOX)
    axes.text(2, middle, f"{explained['item']}\n{score:.3f}", ha="center", va="center", fontsize=8, bbox=_BOX)
    axes.set_xlim(-0.3, 2.6)
    axes.invert_yaxis()
    axes.set_axis_off()
    caption = f"Why an item is recommended: contributions that add up to the score, {explained['model']}"
    yield caption, _svg(figure), explained


def _bars(rows: Mapping[str, Any]) -> tuple[str, Any]:
    """Bars of NDCG@10 with intervals, and their figures."""
    named = {
        name: _numbers(row["ndcg_at_10"], *row["ci95"]["ndcg_at_10"])
        for name, row in rows.items()
        if isinstance(row, Mapping) and "ndcg_at_10" in row
    }
    named = dict(sorted(named.items(), key=lambda one: one[1]))
    figure = _figure(6, 3.2)
    axes = figure.subplots()
    for place, (name, (value, low, high)) in enumerate(named.items()):
        axes.barh(place, value, color=_GREYS[0] if name == "hybrid" else _GREYS[2], edgecolor="black", linewidth=0.6)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    axes.set_yticks(range(len(named)), list(named))
    axes.set_xlabel("NDCG@10")
    return _svg(figure), {name: {"ndcg_at_10": row[0], "ci95": row[1:]} for name, row in named.items()}


def _doubling(axes: Any, numbers: Collection[float]) -> None:
    """A logarithmic axis with a tick for each number."""
    ticks = sorted(numbers)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _numbers(*values: Any) -> tuple[float, ...]:
    """Values as numbers: text would be drawn as categories."""
    return tuple(float(value) for value in values)


def _figure(width: float, height: float) -> Any:
    made = optional_module("matplotlib.figure", "matplotlib", "plot", "drawing pictures").Figure
    return made(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> str:
    written = StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = written.getvalue()
    # The page sets the width.
    return re.sub(r' (width|height)="[^"]*pt"', "", svg[svg.index("<svg") :], count=2)


_DRAWN: tuple[tuple[str, Callable[[Mapping[str, Any]], Iterator[Drawn]]], ...] = (
    ("quality_foundation", _suite),
    ("ablation", _ablation),
    ("time_to_quality", _race),
    ("lora", _learning),
    ("quality_published", _decay),
    ("compression", _frontier),
    ("compression", _stacks),
    ("federated", _privacy),
    ("training_simulator", _devices),
    ("training_faults", _recovery),
    ("serving", _load),
    ("serving", _phases),
    ("serving", _memory),
    ("serving", _workers),
    ("explained", _reasons),
)
"""Result files and what is drawn from them, in the order of the report."""
