"""Generated sections of pages in ``docs/``, from result files; what was not measured is a dash or left out."""

from collections.abc import Iterator
from typing import Any

from benchmarks.lora import ROWS


def federated_section(results: dict[str, Any]) -> str:
    """The table of ``docs/federated.md``, and the latency."""
    return "\n".join(_federated(results))


def _federated(results: dict[str, Any]) -> Iterator[str]:
    reference = results.get("centralised")
    if reference:
        yield (
            f"Centralised: the hybrid fitted on pooled events, NDCG@10 {reference['ndcg_at_10']:.4f} on the same split "
            f"(`{reference['file']}`, commit `{reference['commit'][:7]}`). Bytes are those of all clients together.\n"
        )
    yield "| model | NDCG@10 (95 % interval) | share of centralised | sent | received | rounds |"
    yield "|---|---:|---:|---:|---:|---:|"
    for name, row in results["rows"].items():
        if "ndcg_at_10" in row and not name.endswith("-pooled"):
            low, high = row["ci95"]["ndcg_at_10"]
            share = f"{row['ndcg_at_10'] / reference['ndcg_at_10']:.1%}" if reference else "–"
            sizes = [f"{row[key] / 1e9:.3f} GB" if key in row else "–" for key in ("bytes_up", "bytes_down")]
            quality = f"{row['ndcg_at_10']:.4f} ({low:.4f} … {high:.4f})"
            yield f"| `{name}` | {quality} | {share} | {' | '.join(sizes)} | {row.get('rounds', '–')} |"
    if latency := results["rows"].get("latency"):
        yield (
            f"\nA request takes {latency['federated_p50_ms']:.2f} ms with EASE from sums and "
            f"{latency['centralised_p50_ms']:.2f} ms with EASE fitted on pooled events (p50 of {latency['requests']:,} "
            "requests, each asked of both in turn)."
        )


def adaptation_section(results: dict[str, Any]) -> str:
    """The table of ``docs/fine-tuning.md``: rank 8 in the top two layers against the frozen model; and missing rows."""
    return "\n".join([*_adaptation(results), *_missing(results)])


def _missing(results: dict[str, Any]) -> Iterator[str]:
    datasets = {name: rows for name, rows in results.items() if name != "summary"}
    missing = {name: [f"`{row}`" for row in ROWS if row not in rows] for name, rows in datasets.items()}
    if any(missing.values()):
        said = "; ".join(f"{name}: {', '.join(rows)}" for name, rows in missing.items() if rows)
        full = ", ".join(name for name, rows in datasets.items() if "full" in rows) or "no dataset"
        yield f"\nNot measured: {said}. Times relative to full fine-tuning are known on {full}."


def _adaptation(results: dict[str, Any]) -> Iterator[str]:
    yield "| dataset | splits | objective | items | NDCG@10, frozen | adapted | difference (95 % interval) |"
    yield "|---|---:|---|---|---:|---:|---:|"
    for dataset, rows in results.items():
        for row, objective in (("best-recipe", "histories"), ("companions", "companions")):
            parts = (("test", "with events"), ("cold", "without events"))
            for part, items in parts if "test_minus_frozen" in rows.get(row, {}) else ():
                frozen, adapted = (rows[name][f"{part}_ndcg_at_10"] for name in ("frozen", row))
                found = rows[row][f"{part}_minus_frozen"]
                low, high = (one / frozen for one in found["ci95"])
                change = f"{found['mean'] / frozen:+.1%} ({low:+.1%} … {high:+.1%})"
                splits = rows[row]["seeds"]
                yield f"| {dataset} | {splits} | {objective} | {items} | {frozen:.4f} | {adapted:.4f} | {change} |"


def planner_section(results: dict[str, Any]) -> str:
    """The sentence of ``docs/distributed.md`` on the planner's estimates."""
    largest = results["summary"]["largest_error"]
    return (
        f"The planner's step times deviate from those of emulated ranks by at most {largest:.0%}, in "
        f"{len(results['errors'])} comparisons."
    )
