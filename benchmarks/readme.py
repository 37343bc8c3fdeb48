"""What is generated in the documents: the README's results, from the result files, and the command reference.

``python -m benchmarks.readme`` writes both. No figure is typed by hand: a file that is missing leaves its rows out.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks._record import RESULTS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
COMMANDS = ROOT / "docs" / "commands.md"
BEGIN, END = "<!-- results: begin (python -m benchmarks.readme) -->", "<!-- results: end -->"

QUALITY = (
    ("ml-latest-small", "random-80-20", "ndcg_at_10"),
    ("ml-1m", "random-80-20", "ndcg_at_10"),
    ("ml-1m", "cold-items", "ndcg_at_20"),
    ("amazon-scientific-2018-unisrec", "leave-last-out", "ndcg_at_10"),
    ("gowalla-lightgcn", "published", "recall_at_20"),
)
"""Columns of the table: dataset, protocol and the metric shown."""
MODELS = (
    *("random", "popularity", "item-knn", "ease", "ials", "graph-filter", "graph-filter-tuned", "lightgcn"),
    *("language", "gnn", "gnn-filter", "hybrid"),
)


NOTES = (
    "`hybrid` is the fusion that validation prefers. `gnn-filter` is `gnn` with the hybrid's closed-form view beside",
    "it: the distance from there to `hybrid` is what the texts add, gain or loss. `graph-filter` on gowalla has the",
    "published settings of GF-CF, `graph-filter-tuned` those picked on validation. `lightgcn` reads users from their",
    "histories, not from vectors of their own.",
)
"""What a reader must know to read the table."""


def results_section(folder: Path = RESULTS) -> str:
    """The README's results, markers not included, from the files of ``folder``."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    quality = list(_quality_table(read["quality_foundation"]["results"])) if "quality_foundation" in read else []
    speed = list(_speed_table(read))
    return "\n".join([*quality, "", *speed, "", *_provenance(read)])


def command_reference() -> str:
    """``docs/commands.md``, from the command line itself."""
    command = [sys.executable, "-m", "typer", "lanner.cli.main", "utils", "docs", "--name", "lanner"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def with_results(readme: str, section: str) -> str:
    """``readme`` with what stands between the markers replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{section}\n{END}{rest.split(END)[1]}"


def main() -> None:
    README.write_text(with_results(README.read_text(), results_section()))
    COMMANDS.write_text(command_reference())
    print(README, COMMANDS, sep="\n")


def _quality_table(results: dict[str, Any]) -> Iterator[str]:
    """One row a model, one column a dataset; the best of a column is bold."""
    shown = [column for column in QUALITY if column[1] in results.get(column[0], {})]
    yield (
        "| model | "
        + " | ".join(f"{data}<br>{protocol}<br>{_spelt(metric)}" for data, protocol, metric in shown)
        + " |"
    )
    yield "|---|" + "---:|" * len(shown)
    best = [max(_figure(results, column, model) or 0.0 for model in MODELS) for column in shown]
    for model in MODELS:
        cells: list[str] = []
        for column, top in zip(shown, best, strict=True):
            value = _figure(results, column, model)
            cells.append("–" if value is None else f"**{value:.4f}**" if value == top else f"{value:.4f}")
        if set(cells) != {"–"}:
            yield f"| {model} | {' | '.join(cells)} |"
    yield ""
    yield from NOTES


def _figure(results: dict[str, Any], column: tuple[str, str, str], model: str) -> float | None:
    dataset, protocol, metric = column
    found = results[dataset][protocol].get(model, {}).get(metric)
    return None if found is None else float(found)


_COMPRESSION = {
    "best_latency_ratio": "ml-1m request with a new text, best variant, share of torch eager's latency",
    "best_ndcg_relative_loss": "the same, relative loss of test NDCG@10",
    "encoder_latency_ratio": "encoder alone, 32 tokens, share of torch eager's latency",
    "int8_latency_ratio": "INT8 alone, share of float32's latency in the best runtime for this processor",
    "request_p99_over_bare_search": "1,000,000 items (simulated), whole request, p99 in times of FAISS alone",
}
_SERVING = {
    "personal_goodput_over_fastapi": "personal answers within 20 ms, in times of FastAPI's (100,000 items, simulated)",
    "personal_goodput_over_best_peer": "the same, in times of the best of LitServe, BentoML, Ray Serve, MLServer",
    "personal_goodput_over_fastapi_1m": "the same, in times of FastAPI's (1,000,000 items)",
    "personal_goodput_over_best_peer_1m": "the same, in times of the best of those four (1,000,000 items)",
    "personal_share": "personal share of the answers in time at the rate with most personal ones",
    "personal_share_1m": "the same (1,000,000 items)",
    "light_load_p50_over_fastapi": "p50 at 100 requests a second, in times of FastAPI's",
    "light_load_p99_over_p50": "p99 at 100 requests a second, in times of p50",
    "throughput_over_raw_asgi": "throughput, in times of bare FAISS behind raw ASGI",
    "overload_goodput_kept": "3 × overload for a minute: share of the saturated goodput kept",
    "overload_personal_kept": "the same, of personal answers alone",
    "simulated_overload_over_fixed_window": "3 × overload, simulated: goodput in times of a fixed batch window's",
    "simulator_error": "the scheduler's simulation: largest relative error of p99 or goodput at three loads",
    "acknowledged_events_lost": "events acknowledged and lost in 100 kills",
    "soak_memory_growth": "growth of memory in ten minutes at 70 % load",
    "abuse_p99_ratio": "p99 of an honest client beside hostile ones, in times of calm",
    "abuse_memory_mib": "memory gained under hostile clients, in MiB",
}
"""The losing rows are shown, too."""


def _speed_table(read: dict[str, Any]) -> Iterator[str]:
    rows = [
        ("evaluation", "evaluate all gowalla users, in times of the bare matrix product", _over_product),
        ("evaluation", "the same, in times faster than RecTools", _over_rectools),
        ("kernels", "graph propagation, slowest case, in times of the faster of torch.sparse and PyG", _slowest_kernel),
        ("encoding", "texts per second, in times of the better sentence-transformers loop", _over_loop),
        ("loading", "10 million events from CSV to graph, in times faster than pandas + scipy", _over_pandas),
        *(("compression", label, _summary(name)) for name, label in _COMPRESSION.items()),
        *(("serving", label, _summary(name)) for name, label in _SERVING.items()),
    ]
    if any(name in read for name, _, _ in rows):
        yield "| measured in one run | figure |"
        yield "|---|---:|"
    for name, label, pick in rows:
        # A figure that was not measured yet has no row.
        with suppress(KeyError):
            yield f"| {label} (`{name}`) | {pick(read[name]['results']):.3g} |"


def _over_product(results: dict[str, Any]) -> float:
    return float(results["ratio_to_matmul"])


def _over_rectools(results: dict[str, Any]) -> float:
    return float(results["rectools_over_lanner"])


def _slowest_kernel(results: Any) -> float:
    """The lowest ``ratio_to_faster_peer`` anywhere below."""
    if not isinstance(results, dict):
        return float("inf")
    below = [_slowest_kernel(one) for one in results.values()]
    return min([float(results.get("ratio_to_faster_peer", "inf")), *below])


def _over_loop(results: dict[str, Any]) -> float:
    return float(results["lanner"]["speed_over_best_peer"])


def _over_pandas(results: dict[str, Any]) -> float:
    return float(results["ratio"])


def _summary(name: str) -> Callable[[dict[str, Any]], float]:
    """A figure by name."""
    return lambda results: float(results["summary"][name])


def _provenance(read: dict[str, Any]) -> Iterator[str]:
    """Which machine, and where the rest stands."""
    machines = sorted({f"{one['machine']['cores']} cores of {one['machine']['cpu']}" for one in read.values()})
    where = f" Measured on {'; '.join(machines)}." if machines else ""
    yield f"More figures, intervals, settings, versions and commits: [`benchmarks/results`](benchmarks/results).{where}"


def _spelt(metric: str) -> str:
    """``ndcg_at_10`` as NDCG@10."""
    name, _, k = metric.partition("_at_")
    return f"{name.upper() if name == 'ndcg' else name}@{k}"


if __name__ == "__main__":
    main()
