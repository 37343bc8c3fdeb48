"""Plots of ``compression.json``: accuracy against latency, latency per stage, latency against catalogue size."""

import json
from pathlib import Path
from typing import Any

from benchmarks._record import RESULTS

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
_VARIANTS = ("baseline", "full", "int8", "pruned", "distilled", "popularity")


def main() -> None:
    draw(json.loads((RESULTS / "compression.json").read_text())["results"])


def draw(results: dict[str, Any]) -> None:
    """Write the plots that the results allow as SVG files under docs/pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    if "ml-1m" in results:
        _frontier(results["ml-1m"])
        _stages(results["ml-1m"]["stages"])
    if "clustered-1m" in results:
        _growth(results["clustered-1m"])


def _axes(width: float = 7, height: float = 4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _frontier(rows: dict[str, Any]) -> None:
    """Colours are variants, markers runtimes; popularity, far below and far left, is given as text."""
    figure, axes = _axes()
    markers = {"torch": "o", "onnxruntime": "s", "openvino": "^"}
    for number, name in enumerate(_VARIANTS[:-1]):
        for backend, row in rows[name].items():
            axes.scatter(row["p50_ms"], row["ndcg_at_10"], marker=markers[backend], color=f"C{number}", s=45)
        axes.scatter([], [], marker="o", color=f"C{number}", label=name)
    for backend, marker in markers.items():
        axes.scatter([], [], marker=marker, color="grey", label=backend)
    least = rows["popularity"]["numpy"]
    axes.set_title(
        f"not shown: popularity, {least['p50_ms']:.2f} ms at {least['ndcg_at_10']:.3f}", fontsize=9, loc="left"
    )
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds a request, median (text of 32 tokens, history, ten best of ml-1m)")
    axes.set_ylabel("ndcg@10 on test")
    axes.legend(frameon=False, ncols=2, fontsize=8)
    figure.savefig(PICTURES / "accuracy-against-latency.svg", metadata={"Date": None})


def _stages(stages: dict[str, dict[str, float]]) -> None:
    figure, axes = _axes(8, 3)
    left = dict.fromkeys(stages, 0.0)
    for stage in ("encode", "aggregate", "retrieve", "rank", "explain"):
        widths = [times.get(stage, 0.0) for times in stages.values()]
        axes.barh(list(stages), widths, left=list(left.values()), label=stage)
        left = {name: left[name] + width for name, width in zip(left, widths, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a request, median, by stage")
    axes.legend(frameon=False, ncols=4)
    figure.savefig(PICTURES / "latency-by-stage.svg", metadata={"Date": None})


def _growth(sizes: dict[str, Any]) -> None:
    figure, axes = _axes()
    measured = [(int(items), row) for items, row in sizes.items() if "request" in row]
    counts = [items for items, _ in measured]
    for part, label, style in (("request", "whole request", "-"), ("bare_faiss", "FAISS alone", ":")):
        axes.plot(counts, [row[part]["p50_ms"] for _, row in measured], marker="o", linestyle=style, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("items")
    axes.set_ylabel("milliseconds, median")
    axes.legend(frameon=False)
    figure.savefig(PICTURES / "latency-against-catalogue.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
