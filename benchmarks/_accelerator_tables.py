"""The tables of ``docs/accelerator.md``, from ``fpga.json``; sections that were not measured are left out."""

from collections.abc import Iterator
from typing import Any

_PARTS = {"gnn": "GNN", "language_model": "language model", "fusion": "fusion over the catalogue", "head": "head"}


def accelerator_section(results: dict[str, Any]) -> str:
    """The generated section, without its markers."""
    tables = {"routed": _routed, "paper": _paper, "external": _external}
    return "\n\n".join("\n".join(table(results[name])) for name, table in tables.items() if name in results)


def _routed(found: dict[str, Any]) -> Iterator[str]:
    columns = ("device", "lanes", "rows", "seeds", "MHz, median", "lowest … highest")
    columns += ("LUTs", "registers", "multipliers", "memories", "commit")
    yield f"Clock, *routed* with pins ({found['pins']}); cells as reported by nextpnr:\n"
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, row in found.items():
        if isinstance(row, dict):
            used = [row["used"][kind] for kind in ("TRELLIS_COMB", "TRELLIS_FF", "MULT18X18D", "DP16KD")]
            cells = " | ".join(f"{one:,}" for one in (row["lanes"], row["rows"], len(row["mhz"])))
            counts = " | ".join(f"{one:,}" for one in used)
            lowest, highest = min(row["mhz"].values()), max(row["mhz"].values())
            mhz = f"{row['mhz_median']:.1f} | {lowest:.1f} … {highest:.1f}"
            yield f"| ECP5-{name.upper()} | {cells} | {mhz} | {counts} | `{row['commit'][:7]}` |"


def _paper(found: dict[str, Any]) -> Iterator[str]:
    accelerator, columns = found["accelerator"], ("unoptimised", "optimised")
    yield (
        "A request with a new text by component, in ms: *measured* on one core, before and after optimisation, and "
        f"with the accelerator's time, *predicted* at {accelerator['mhz']:.1f} MHz ({accelerator['lanes']} lanes), in "
        "place of the GNN. It aggregates and scores a catalogue of ml-1m's size in one table of 64 dimensions, which "
        "is less work than the bundle requires. The last row is the paper's published figure, on other hardware:\n"
    )
    yield "| | unoptimised | optimised | with the accelerator |"
    yield "|---|---|---|---|"
    for part, title in _PARTS.items():
        before, after = (found[column][part] for column in columns)
        hardware = accelerator.get(part, after)
        yield f"| {title} | {before:.3f} | {after:.3f} | {hardware:.3f} |"
    whole = [found[column]["request"] for column in columns]
    replaced = whole[1] - found["optimised"]["gnn"] + accelerator["gnn"]
    published = found["published"]
    left = [total - sum(found[column][part] for part in _PARTS) for total, column in zip(whole, columns, strict=True)]
    yield f"| all else, by difference | {left[0]:.3f} | {left[1]:.3f} | {left[1]:.3f} |"
    yield f"| request | {whole[0]:.2f} | {whole[1]:.2f} | {replaced:.2f}, predicted |"
    yield f"| request, published | {published['unoptimised']:.0f} | | {published['optimised']:.0f} |"


def _external(found: dict[str, Any]) -> Iterator[str]:
    stream, exact = found["stream"], found["exact"]
    yield (
        f"External memory: {found['memory']}, peak {found['peak_mb_per_s']:,.0f} MB/s at {found['mhz']:.0f} MHz, "
        f"batches of {found['users']} users. A stream of {stream['items']:,} targets reaches "
        f"{stream['share_of_peak']:.1%} of the peak, a whole batch over {exact['items']} items has "
        f"{exact['mismatches']} mismatches (*simulated*). "
        "Microseconds per user, *estimated* (lower and upper bound) for the accelerator with full batches, and "
        "*measured* on one thread for the others; recall of the contract's own ten best:\n"
    )
    yield "| items | streamed | recall@10 | accelerator | FAISS | NumPy |"
    yield "|---|---|---|---|---|---|"
    for items in [name for name in found if name.isdigit()]:
        rows = found[items]
        peers = f"{rows['faiss_flat_us_per_user']:,.0f} (flat) | {rows['numpy_us_per_user']:,.0f}"
        yield f"| {int(items):,} | everything | 1.000 | {_span(rows['exact'])} | {peers} |"
        for name in [one for one in rows if one.startswith("probes_")]:
            row, lists = rows[name], name.removeprefix("probes_")
            peer = f"{row['faiss_ivf_us_per_user']:,.0f} (IVF)"
            yield f"| | {lists} lists per user | {row['recall_at_10']:.3f} | {_span(row)} | {peer} | |"


def _span(row: dict[str, Any]) -> str:
    return f"{row['us_per_user_least']:,.0f} … {row['us_per_user_most']:,.0f}"
