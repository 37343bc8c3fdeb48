"""Figures of the report, as inline SVG; needs the extra ``plot``."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate
from typing import Any

from lanner.errors import optional_module
from lanner.reproduction.claims import Results

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
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "lanner", "font.size": 9}
_REASONS = 6
_BOX = {"boxstyle": "round", "facecolor": "1", "edgecolor": "0", "linewidth": 0.6}


@dataclass(frozen=True)
class Picture:
    """svg: without a header. caption: what it shows. source: the result file with the data."""

    svg: str
    caption: str
    source: str


def pictures_of(results: Results) -> list[Picture]:
    """The figures for which there are results.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    plot = optional_module("matplotlib", "matplotlib", "plot", "pictures")
    plot.use("Agg")
    with plot.rc_context(_STYLE):
        return list(_drawn(results))


def _drawn(results: Results) -> Iterator[Picture]:
    quality = results.get("quality_foundation", {}).get("results", {})
    for dataset, protocol in _COLUMNS:
        rows = quality.get(dataset, {}).get(protocol, {})
        if "hybrid" in rows:
            yield Picture(_bars(rows), f"NDCG@10 with 95 % intervals: {dataset}, {protocol}", "quality_foundation")
    for dataset, table in results.get("ablation", {}).get("results", {}).items():
        caption = f"NDCG@10 of the hybrid's pieces and of the hybrid without each: {dataset}, {table['protocol']}"
        yield Picture(_bars(table["rows"]), caption, "ablation")
    racing = results.get("time_to_quality", {}).get("results", {})
    if racing:
        yield Picture(_race(racing), "Processor seconds to NDCG@20: gowalla-lightgcn", "time_to_quality")
    for dataset, rows in results.get("lora", {}).get("results", {}).items():
        if dataset != "summary":
            caption = f"NDCG@10 on validation while the language model learns: {dataset}"
            yield Picture(_learning(rows), caption, "lora")
    windows = results.get("quality_published", {}).get("results", {}).get("windows", {})
    if windows:
        caption = "NDCG@10 by chronological window: no update, update, trained anew"
        yield Picture(_lines(windows), caption, "quality_published")
    variants = results.get("compression", {}).get("results", {}).get("ml-1m", {})
    if variants:
        caption = "Latency (p50) of the variants and the NDCG@10 that they keep: ml-1m"
        yield Picture(_frontier(variants), caption, "compression")
    yield from _of_serving(results.get("serving", {}).get("results", {}))
    explained = results.get("explained", {}).get("results", {})
    if explained:
        caption = f"Why an item is recommended: contributions that add up to the score, {explained['model']}"
        yield Picture(_reasons(explained), caption, "explained")


def _of_serving(results: Mapping[str, Any]) -> Iterator[Picture]:
    if "saturation" in results:
        caption = "Personal answers within the deadline against requests: 100,000 items; thin: all in time"
        yield Picture(_load(results["saturation"]["100000"]), caption, "serving")
    if "overload" in results:
        again = results["overload"]["recovered_s"]
        caption = f"Overload and recovery: what became of requests; all in time again after {again:.1f} s"
        yield Picture(_phases(results["overload"]), caption, "serving")
    if "soak" in results:
        caption = "Memory of the server and its workers over ten minutes of load"
        yield Picture(_memory(results["soak"]["memory_mib"]), caption, "serving")
    if "simulator" in results:
        caption = "Answers in time by number of workers, load in proportion; simulated"
        yield Picture(_scaling(results["simulator"]["many_workers"]["rows"]), caption, "serving")


def _bars(rows: Mapping[str, Any]) -> str:
    figure = _figure(6, 3.2)
    named = [(name, row) for name, row in rows.items() if isinstance(row, dict) and "ndcg_at_10" in row]
    named.sort(key=lambda one: one[1]["ndcg_at_10"])
    axes = figure.subplots()
    for place, (name, row) in enumerate(named):
        low, high = row["ci95"]["ndcg_at_10"]
        value = row["ndcg_at_10"]
        axes.barh(place, value, color=_GREYS[0] if name == "hybrid" else _GREYS[2], edgecolor="black", linewidth=0.6)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
    axes.set_yticks(range(len(named)), [name for name, _ in named])
    axes.set_xlabel("NDCG@10")
    return _svg(figure)


def _race(found: Mapping[str, Any]) -> str:
    figure = _figure(6, 2.8)
    axes = figure.subplots()
    for marker, (name, row) in zip("so^D", found["lanner"].items(), strict=False):
        axes.plot(row["seconds"], row["ndcg_at_20"], f"k{marker}", markersize=5, label=name)
    epochs = found["lightgcn"]["epochs"]
    seconds = list(accumulate(epoch["seconds"] for epoch in epochs))
    axes.plot(seconds, [epoch["ndcg_at_20"] for epoch in epochs], "k-", marker=".", label="LightGCN")
    end, target = found["summary"]["peer_seconds_extrapolated"], found["target"]
    axes.plot([seconds[-1], end], [epochs[-1]["ndcg_at_20"], target], "k:", label="LightGCN, extrapolated")
    axes.axhline(target, color=_GREYS[1], linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("processor seconds")
    axes.set_ylabel("NDCG@20")
    axes.legend(fontsize=7)
    return _svg(figure)


def _learning(rows: Mapping[str, Any]) -> str:
    figure = _figure(6, 2.8)
    axes = figure.subplots()
    styles = ("-", "--", "-.", ":")
    for place, (name, row) in enumerate(rows.items()):
        if row["curves"][0]:
            seconds, qualities = zip(*row["curves"][0], strict=True)
            style, shade = styles[place % len(styles)], _GREYS[place // len(styles)]
            axes.plot(seconds, qualities, style, color=shade, marker="x", markersize=3, label=name)
    axes.set_xlabel("processor seconds")
    axes.set_ylabel("NDCG@10")
    axes.legend(fontsize=7)
    return _svg(figure)


def _lines(windows: Mapping[str, Any]) -> str:
    figure = _figure(7, 2.6)
    found = {dataset: next(iter(of_seeds.values())) for dataset, of_seeds in windows.items()}
    for axes, (dataset, one) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        for style, name in zip(("k:", "k--", "k-"), ("none", "update", "retrain"), strict=True):
            values = [window["ndcg_at_10"]["halfway"].get(name) for window in one["windows"]]
            axes.plot(range(1, len(values) + 1), values, style, label=name)
        axes.set_title(dataset, fontsize=9)
        axes.set_xlabel("window")
        axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=8)
    return _svg(figure)


def _frontier(variants: Mapping[str, Any]) -> str:
    figure = _figure(6, 3.2)
    axes = figure.subplots()
    for variant, backends in variants.items():
        for backend, row in backends.items() if isinstance(backends, dict) else ():
            if isinstance(row, dict) and "p50_ms" in row and "ndcg_at_10" in row:
                axes.plot(row["p50_ms"], row["ndcg_at_10"], "ko", markersize=4)
                axes.annotate(f"{variant} {backend}", (row["p50_ms"], row["ndcg_at_10"]), fontsize=7, xytext=(4, 2),
                              textcoords="offset points")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("p50 of a request, ms")
    axes.set_ylabel("NDCG@10")
    return _svg(figure)


def _load(servers: Mapping[str, Any]) -> str:
    figure = _figure(6, 3.2)
    axes = figure.subplots()
    for name, style in _SERVERS:
        steps = servers.get(name, {}).get("steps", [])
        if steps:
            points = sorted((one["offered_per_s"], one["personal_goodput_per_s"]) for one in steps)
            axes.plot(*zip(*points, strict=True), style, label=name, marker=".", markersize=4, linewidth=1.2)
            axes.annotate(
                name, max(points, key=lambda one: one[1]), fontsize=7, xytext=(3, 4), textcoords="offset points"
            )
    axes.set_ylim(0, 1.1 * max(max(line.get_ydata()) for line in axes.lines))
    axes.set_xlim(left=0)
    axes.axline((0, 0), slope=1, color="0.6", linewidth=0.6)
    axes.set_xlabel("requests a second")
    axes.set_ylabel("personal answers in time a second")
    return _svg(figure)


def _phases(overload: Mapping[str, Any]) -> str:
    figure = _figure(6, 2.2)
    axes = figure.subplots()
    for place, (name, _) in enumerate(_PHASES):
        phase, begin = overload[name], 0.0
        answered = phase["answered_per_s"] / phase["offered_per_s"]
        shares = {one: share * answered for one, share in phase["answered_by"].items()} | {"rejected": 1 - answered}
        for variant, shade in _SHADES.items():
            share = max(shares.get(variant, 0.0), 0.0)
            axes.barh(
                place, share, left=begin, color=shade, edgecolor="black", linewidth=0.6, label="" if place else variant
            )
            begin += share
    axes.set_yticks(range(3), [f"{shown}: {overload[name]['offered_per_s']:,.0f}/s" for name, shown in _PHASES])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the requests that came")
    figure.legend(fontsize=7, ncols=len(_SHADES), loc="outside upper center")
    return _svg(figure)


def _memory(mib: Sequence[float]) -> str:
    figure = _figure(6, 2.2)
    axes = figure.subplots()
    axes.plot([10 * place / max(len(mib) - 1, 1) for place in range(len(mib))], mib, "k-", linewidth=1)
    axes.set_ylim(0, 1.1 * max(mib))
    axes.set_xlabel("minutes")
    axes.set_ylabel("MiB")
    return _svg(figure)


def _scaling(rows: Sequence[Mapping[str, Any]]) -> str:
    figure = _figure(6, 2.6)
    axes = figure.subplots()
    for style, load in zip(("k-", "k--"), sorted({row["load"] for row in rows}), strict=False):
        points = [(row["workers"], row["goodput_share"]) for row in rows if row["load"] == load]
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, label=f"{load:g} × what they can answer")
    workers = sorted({row["workers"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(workers, list(map(str, workers)))
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("workers")
    axes.set_ylabel("share answered in time")
    axes.legend(fontsize=8)
    return _svg(figure)


def _reasons(explained: Mapping[str, Any]) -> str:
    """User, what the user chose, and the recommended item; a line is as thick as its contribution."""
    parts = explained["parts"][:_REASONS]
    rest = explained["score"] - sum(part["value"] for part in parts)
    shown = [*((part["name"], part["value"]) for part in parts), ("all else", rest)]
    figure = _figure(7, 3.2)
    axes = figure.subplots()
    middle = (len(shown) - 1) / 2
    thickest = max(abs(value) for _, value in shown)
    for place, (name, value) in enumerate(shown):
        style = {"color": _GREYS[1], "linestyle": "-" if value >= 0 else ":", "zorder": 1}
        axes.plot([0, 1], [middle, place], color=_GREYS[2], linewidth=0.8, zorder=1)
        axes.plot([1, 2], [place, middle], linewidth=0.5 + 6 * abs(value) / thickest, **style)
        axes.text(1, place, f"{name}  {value:+.3f}", ha="center", va="center", fontsize=7, bbox=_BOX)
    axes.text(0, middle, explained["user"], ha="center", va="center", bbox=_BOX)
    axes.text(
        2, middle, f"{explained['item']}\n{explained['score']:.3f}", ha="center", va="center", fontsize=8, bbox=_BOX
    )
    axes.set_xlim(-0.3, 2.6)
    axes.invert_yaxis()
    axes.set_axis_off()
    return _svg(figure)


def _figure(width: float, height: float) -> Any:
    made = optional_module("matplotlib.figure", "matplotlib", "plot", "pictures").Figure
    return made(figsize=(width, height), layout="constrained")


def _svg(figure: Any) -> str:
    written = StringIO()
    figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = written.getvalue()
    # The page sets the width.
    return re.sub(r' (width|height)="[^"]*pt"', "", svg[svg.index("<svg") :], count=2)


def table_of_windows(results: Results) -> Sequence[Sequence[str]]:
    """Rows of the accuracy that an update keeps, by dataset; a heading first, or nothing."""
    windows = results.get("quality_published", {}).get("results", {}).get("windows", {})
    rows = [["dataset", "no update", "update", "trained anew", "kept", "processor time"]]
    for dataset, of_seeds in windows.items():
        for one in of_seeds.values():
            halfway = one["halfway"]["ndcg_at_10"]
            shown = [f"{halfway[name]:.4f}" for name in ("none", "update", "retrain")]
            rows.append([dataset, *shown, f"{one['kept']:.1%}", f"{one['time_share']:.1%}"])
    return rows if len(rows) > 1 else []


def table_of_fusions(results: Results) -> Sequence[Sequence[str]]:
    """Rows of the fusion architectures, by dataset; a heading first, or nothing."""
    quality = results.get("quality_foundation", {}).get("results", {})
    rows = [["dataset", "model", "NDCG@10", "95 % interval", "recall@10"]]
    for dataset, protocols in quality.items():
        for one in protocols.values() if isinstance(protocols, dict) else ():
            fusions = ("gnn", "language", "fusion-concat", "fusion-gated", "fusion-cross-attention", "hybrid")
            for name in fusions if isinstance(one, dict) and "fusion-concat" in one else ():
                row = one[name]
                low, high = row["ci95"]["ndcg_at_10"]
                rows.append(
                    [dataset, name, f"{row['ndcg_at_10']:.4f}", f"{low:.4f} … {high:.4f}", f"{row['recall_at_10']:.4f}"]
                )
    return rows if len(rows) > 1 else []
