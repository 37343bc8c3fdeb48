"""Tables of the report: the answers to questions that one figure cannot give."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lanner.reproduction.claims import Results, reading, results_of

_FUSIONS = ("gnn", "language", "fusion-concat", "fusion-gated", "fusion-cross-attention", "hybrid")
_ADAPTATIONS = ("frozen", "full", "lora-4", "lora-8", "lora-16", "best-recipe")
_CONFIGURATIONS = {
    "baseline": "unoptimised",
    "full": "the same in a bundle",
    "int8": "+ quantisation",
    "pruned": "+ pruning",
    "distilled": "+ pruning and distillation",
}
_COMPONENTS = {"gnn": "graph network", "language_model": "language model", "fusion": "fusion", "head": "MLP",
               "rest": "all else"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """rows: a heading first. note: how to read it."""

    question: str
    rows: Sequence[Sequence[str]]
    note: str


def tables_of(results: Results) -> list[Table]:
    """The tables for which there are results.

    Raises:
        ConfigError: something in a result file has the wrong type; the message names the file.
    """
    found = []
    for question, file, heading, rows_of, note in _TABLES:
        rows: list[Sequence[str]] = []
        with reading(file):
            rows.extend(rows_of(results_of(results, file)))
        if rows:
            found.append(Table(question, [heading.split(" | "), *rows], note))
    return found


def _fusions(quality: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for dataset, protocols in quality.items():
        for protocol, rows in protocols.items() if dataset != "summary" else ():
            if "fusion-concat" not in rows:
                continue
            heads = {name: _metrics(rows[name]) for name in _FUSIONS if name.startswith("fusion-") and name in rows}
            for name in _FUSIONS:
                with reading("quality_foundation"):
                    row = rows[name]
                    fell_back = name in heads and list(heads.values()).count(heads[name]) > 1
                    shown = f"{name} (fell back)" if fell_back else name
                    figures = [f"{row['ndcg_at_10']:.4f}", _interval(row), f"{row['recall_at_10']:.4f}"]
                    yield [f"{dataset}/{protocol}", shown, *figures, _on_validation(row) if name in heads else "–"]


def _on_validation(row: Mapping[str, Any]) -> str:
    """What is served, and the ranking head once trained, on the same validation users."""
    trained = row.get("validation_ndcg_at_10_of_head")
    return f"{row['validation_ndcg_at_10']:.4f}, {'not recorded' if trained is None else f'{trained:.4f}'}"


def _windows(published: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for dataset, seeds in published["windows"].items():
        for seed, one in seeds.items():
            for place, window in enumerate(one["windows"], 1):
                with reading("quality_published"):
                    shares = window["update"]["cpu_seconds"] / window["retrain"]["cpu_seconds"]
                    users = f"{window['users']['halfway']:,}"
                    yield [
                        *(f"{dataset}, seed {seed}", str(place), users),
                        *_decay(window["ndcg_at_10"]["halfway"], ""),
                        f"{shares:.1%}",
                    ]
            with reading("quality_published"):
                low, high = one["halfway"]["ci95"]
                decay = _decay(one["halfway"]["ndcg_at_10"], f"{low:+.4f} … {high:+.4f}")
                yield [f"{dataset}, seed {seed}", "all", "", *decay, f"{one['time_share']:.1%}"]


def _decay(ndcg: Mapping[str, float], interval: str) -> list[str]:
    shown = [f"{ndcg[name]:.4f}" for name in ("none", "update", "retrain")]
    return [*shown, f"{ndcg['update'] / ndcg['retrain']:.1%}", interval]


def _federated(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    with reading("federated"):
        whole = float(found["centralised"]["ndcg_at_10"])
    for name, row in found["rows"].items():
        with reading("federated"):
            if "ndcg_at_10" in row:  # the sums of processes are only compared with each other
                shown = [name, f"{row['ndcg_at_10']:.4f}", _interval(row)]
                sent = [f"{row[key]:,}" for key in ("bytes_up", "bytes_down", "rounds")]
                yield [*shown, *sent, f"{row['ndcg_at_10'] / whole:.1%}"]


def _adaptations(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for dataset, rows in found.items():
        for name in _ADAPTATIONS if dataset != "summary" else ():
            if name not in rows:
                yield [dataset, name, "not measured", "", ""]
                continue
            with reading("lora"):
                row = rows[name]
                low, high = row["test_ci95"]
                time = row.get("time_ratio")
                interval = f"{low:.4f} … {high:.4f}"
                yield [dataset, name, f"{row['test_ndcg_at_10']:.4f}", interval, "–" if time is None else f"{time:.1%}"]


def _configurations(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    rows = found["ml-1m"]
    baseline = rows["baseline"]["torch"]["p50_ms"]
    for variant, shown in _CONFIGURATIONS.items():
        for backend, row in rows.get(variant, {}).items():
            with reading("compression"):
                times = [f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}", f"{row['p50_ms'] / baseline:.1%}"]
                yield [shown, backend, *times, f"{row['ndcg_at_10']:.4f}"]


def _components(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    paper = found["paper"]
    before, after, accelerator = paper["unoptimised"], paper["optimised"], paper["accelerator"]
    whole = {"request": f"request, {paper['processor']['threads']} threads"}
    for part, shown in (_COMPONENTS | whole).items():
        if part in before and part in after:
            hardware = f"{accelerator[part]:.4f}, {accelerator['tag']}" if part in accelerator else "–"
            yield [shown, f"{before[part]:.4f}", f"{after[part]:.4f}", hardware]
    published = paper["published"]
    yield ["request, the paper", f"{published['unoptimised']:g}", f"{published['optimised']:g}", "–"]


def _metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracy of a row, as equal rows share it."""
    return {name: value for name, value in row.items() if "_at_" in name and not name.startswith("validation")}


def _interval(row: Mapping[str, Any]) -> str:
    low, high = row["ci95"]["ndcg_at_10"]
    return f"{low:.4f} … {high:.4f}"


_TABLES = (
    (
        "Which way of joining both halves is best?",
        "quality_foundation",
        "dataset | model | NDCG@10 | 95 % interval | recall@10 | NDCG@10 on validation: served, trained head",
        _fusions,
        "Fell back: this ranking head, once trained, was worse on validation than the weighted sum of the views, so "
        "the sum answers instead; such rows are equal. The last column has both on the validation users kept for this "
        "choice; a trained head that fell back was not evaluated on test.",
    ),
    (
        "How fast does accuracy decay, and what does an update recover?",
        "quality_published",
        "dataset | window | users | no update | update | trained anew | kept | update minus trained anew, 95 % "
        "interval | processor time",
        _windows,
        "NDCG@10 halfway through each window. No update: the model before all windows. Trained anew: fitted from "
        "nothing on all events before that time. Kept: update relative to trained anew. Processor time: of the "
        "update relative to training anew.",
    ),
    (
        "What does federated learning cost?",
        "federated",
        "model | NDCG@10 | 95 % interval | bytes sent | bytes received | rounds | NDCG@10 of the centralised hybrid",
        _federated,
        "Bytes are those of all clients. The centralised hybrid sees all events in one place. The federated one is "
        "the weighted sum of EASE, from secure sums, and of vectors averaged in 8 bits; the weight is fixed. Epsilon: "
        "of differential privacy per user.",
    ),
    (
        "What does adapting the language model bring?",
        "lora",
        "dataset | model | NDCG@10 | 95 % interval | seconds to full fine-tuning's best, relative to it",
        _adaptations,
        "The language model alone; NDCG@10 of items with events. A dash: it was not reached, or there is nothing to "
        "compare with. Best recipe: rank 8 in the last two layers.",
    ),
    (
        "What does each optimisation bring?",
        "compression",
        "configuration | backend | p50, ms | p99, ms | p50 relative to unoptimised | NDCG@10",
        _configurations,
        "One request with a new text, ml-1m. LoRA, an FPGA and training with DeepSpeed have no measured row; the "
        "claims say why.",
    ),
    (
        "Where does the time of a request go?",
        "fpga",
        "component | unoptimised, ms | optimised, ms | on the accelerator, ms",
        _components,
        "One request with a new text, ml-1m: medians over rounds. The components of a column are timed inside its own "
        "requests, and are left out where they were not; a part that the model lacks, such as an MLP, has no row. The "
        "time on the accelerator is predicted from its routed clock. The paper's times are from other hardware.",
    ),
)
"""Question, result file, heading, rows, and a note on reading them."""
