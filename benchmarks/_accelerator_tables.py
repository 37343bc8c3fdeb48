"""The tables of ``docs/accelerator.md``, from ``fpga.json``; sections that were not measured are left out."""

import re
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

_PARTS = {"gnn": "GNN", "language_model": "language model", "fusion": "fusion over the catalogue", "head": "MLP",
          "rest": "all else"}  # fmt: skip

_ON_THE_CPU = {
    "numpy": "the same in NumPy, float32",
    "faiss": "the same in FAISS (flat), float32, seen rows excluded by an id filter per call",
    "faiss_unfiltered": "without excluding them: FAISS (flat), float32",
    "faiss_int8": "list alone, of a user vector given in INT8: FAISS over the stored INT8 codes",
    "product": "product alone, of a given user vector: NumPy, float32",
}
_XILINX = {
    "LUTs": r"LUT\d",
    "registers": r"FD[A-Z]E",
    "multipliers": r"DSP48E2",
    "memories of 36 kbit": r"RAMB36E2",
    "memories of 18 kbit": r"RAMB18E2",
}
"""What to count in the estimate, by names of cells."""


def accelerator_section(results: dict[str, Any]) -> str:
    """The generated section, without its markers."""
    tables: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
        "routed": _routed,
        "estimated": _estimated,
        "exactness": _exactness,
        "lanes": _lanes,
        "quality": _quality,
        "bundles": _bundles,
        "sampler": _sampler,
        "paper": _paper,
        "external": _external,
        "proofs": _proofs,
        "mutants": _mutants,
    }
    if "exactness" in results and "routed" in results:
        tables["exactness"] = lambda found: chain(_exactness(found), _latency(results))
    shown = [table(results[name]) for name, table in tables.items() if name in results]
    return "\n\n".join(text for text in map("\n".join, shown) if text)


def _exactness(found: dict[str, Any]) -> Iterator[str]:
    yield "Exactness, *simulated* in Verilator: every answer against the contract, its cycles against the model:\n"
    yield "| requests | number | mismatches | largest error of the model, cycles |"
    yield "|---|---|---|---|"
    users = found["users_bit_exact"] + found["mismatches"]
    yield (
        f"| users of ml-1m, {found['items']:,} items, {found['dimensions']} dimensions | {users:,} | "
        f"{found['mismatches']} | {found['cycle_model_error']} |"
    )
    corners = found.get("adversarial", {"hosts": []})
    for host in corners["hosts"]:
        offered, taken = host["offered"], host["taken"]
        pace = f"offers a word in {offered:.0%} and takes one in {taken:.0%} of cycles"
        if offered == taken == 1:
            pace = "always offers and takes a word"
        error = host.get("cycle_model_error", "–")  # the model is of a host that never waits
        yield (
            f"| corners, histories up to {corners['longest_history']:,}, the host {pace} | {corners['requests']} | "
            f"{host['mismatches']} | {error} |"
        )
    said = f"\nThe simulation runs {found['simulation_cycles_per_s']:,.0f} cycles a second"
    if "latency_p99_over_p50" in found:
        said += f"; p99 / p50 of requests with equal lengths is at most {found['latency_p99_over_p50']:.2f}"
    yield f"{said}."


def _latency(results: dict[str, Any]) -> Iterator[str]:
    found, design = results["exactness"], results["routed"]["85f"]
    mhz = design["mhz_median"]
    yield (
        f"\nMicroseconds for one user with the mean history ({found['mean_history']} items), {found['items']:,} items "
        f"in one table of {found['dimensions']} dimensions, ten best. The accelerator without the link to its host, "
        "the others on one thread:\n"
    )
    yield "| | p50 | p99 |"
    yield "|---|---|---|"
    time = found["cycles_mean_history"] / mhz
    yield f"| {design['lanes']} lanes on an ECP5-85F, *predicted* at {mhz:.1f} MHz | {time:.1f} | {time:.1f} |"
    for name, title in _ON_THE_CPU.items():
        if name in results.get("cpu", {}):
            row = results["cpu"][name]
            yield f"| {title}, *measured* | {row['us_p50']:.1f} | {row['us_p99']:.1f} |"


def _lanes(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Larger arrays, *predicted* for the same request at {found['mhz']:.1f} MHz, the clock of the routed design, "
        "which none of the others is:\n"
    )
    yield "| dimensions | lanes | cycles | µs | what the ECP5-85F lacks |"
    yield "|---|---|---|---|---|"
    for row in [one for one in found.values() if isinstance(one, dict)]:
        cells = f"{row['dimensions']} | {row['lanes']} | {row['cycles']:,} | {row['us']:.1f}"
        yield f"| {cells} | {row['lacks'] or 'nothing'} |"


def _quality(found: dict[str, Any]) -> Iterator[str]:
    yield (
        "Quality of the contract on real bundles, *measured*: its lists against those of the same codes in floats and "
        "of the stored variant, and the relative loss of NDCG@10 on test events. Users' attributes have no integer "
        "form, so the bundle is of ml-1m without its users file:\n"
    )
    yield "| bundle, variant | overlap@10, same codes | overlap@10, variant | loss, same codes | loss, full variant |"
    yield "|---|---|---|---|---|"
    for name, row in found.items():
        if isinstance(row, dict):
            overlaps = f"{row['overlap_at_10_same_codes']:.4f} | {row['overlap_at_10_variant']:.4f}"
            losses = [row.get(f"ndcg_loss_{one}") for one in ("same_codes", "full")]
            shown = " | ".join("not measured" if one is None else f"{one:.2%}" for one in losses)
            yield f"| {name} | {overlaps} | {shown} |"


def _bundles(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Accelerators of real bundles, *estimated* for an {found['device']}, at {found['mhz']:g} MHz though they were "
        "not routed; beside the variant on one thread, *measured*:\n"
    )
    yield "| bundle, variant | items × dimensions × tables | lanes | memories | µs p50 | p99 | CPU µs p50 | p99 |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in found.items():
        if isinstance(row, dict):
            times = [row[f"cycles_{one}"] / found["mhz"] for one in ("p50", "p99")]
            shape = f"{row['items']:,} × {row['dimensions']} × {row['tables']}"
            memories = f"{row['memories']:,} of {row['memories_of_device']}"
            both = " | ".join(f"{one:,.0f}" for one in (*times, row["cpu"]["us_p50"], row["cpu"]["us_p99"]))
            yield f"| {name} | {shape} | {row['lanes']} | {memories} | {both} |"


def _sampler(found: dict[str, Any]) -> Iterator[str]:
    if "chi2" in found:
        chances = ", ".join(f"{p:.2f} (degree {degree})" for degree, p in found["chi2"]["p"].items())
        yield (
            f"Neighbour sampler, *simulated* on {found['nodes']:,} nodes with fan-out {found['fanout']}: "
            f"{found['mismatches']} mismatches with the oracle, {found['cycles_per_neighbour']:.2f} cycles per "
            f"neighbour. p of the oracle's frequencies in {found['chi2']['draws']:,} draws: {chances}."
        )


def _proofs(found: dict[str, Any]) -> Iterator[str]:
    yield "Proofs by yosys-smtbmc and Boolector; *unbounded*: by induction, *complete*: for every input it can hold:\n"
    yield "| property | reach | holds | seconds |"
    yield "|---|---|---|---|"
    for name, row in found.items():
        yield f"| {name} | {row['reach']} | {'yes' if row['holds'] else 'no'} | {row['seconds']:.1f} |"


def _mutants(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Tests notice {found['killed']} of {found['mutants']} injected faults ({found['killed_share']:.1%}). "
        "The others:\n"
    )
    yield "| module | fault | why no answer changes |"
    yield "|---|---|---|"
    for row in found["survivors"]:
        fault = row["fault"].replace("|", "\\|")
        yield f"| {row['module']} | `{fault}` | {row['explained'] or 'unexplained'} |"


def _routed(found: dict[str, Any]) -> Iterator[str]:
    columns = ("device", "lanes", "rows", "seeds", "MHz, median", "lowest … highest")
    columns += ("LUTs", "registers", "multipliers", "memories", "commit")
    yield f"Clock, *routed* with pins ({found['pins']}); a seed that does not finish counts as 0. Cells by nextpnr:\n"
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


def _estimated(found: dict[str, Any]) -> Iterator[str]:
    counts = [
        (what, sum(count for kind, count in found["cells"].items() if re.fullmatch(pattern, kind)))
        for what, pattern in _XILINX.items()
    ]
    cells = ", ".join(f"{count:,} {what}" for what, count in counts if count)
    yield (
        f"On an Alveo-class device ({found['family']}), *estimated* by synth_xilinx, neither placed nor routed: "
        f"{found['dimensions']} dimensions, {found['lanes']} lanes and {found['rows']:,} rows take {cells}."
    )


def _paper(found: dict[str, Any]) -> Iterator[str]:
    if "processor" not in found:  # its columns were not of one system
        return
    accelerator, processor, columns = found["accelerator"], found["processor"], ("unoptimised", "optimised")
    before, after = (found[column] for column in columns)
    parts = {part: title for part, title in _PARTS.items() if part in before and part in after}
    yield (
        f"A request with a new text, in ms: *measured* on {processor['threads']} threads, medians of "
        f"{processor['rounds']} rounds, before (`{before['row']}`) and after optimisation (`{after['row']}`), and with "
        f"the accelerator's time, *predicted* at {accelerator['mhz']:.1f} MHz ({accelerator['lanes']} lanes), in place "
        f"of the GNN. {_of_parts(parts)} The accelerator aggregates and scores a catalogue of ml-1m's size in one "
        "table of 64 dimensions, which is less work than the bundle requires. The last row is the paper's published "
        "figure, on other hardware:\n"
    )
    yield "| | unoptimised | optimised | with the accelerator |"
    yield "|---|---|---|---|"
    for part, title in parts.items():
        yield f"| {title} | {before[part]:.3f} | {after[part]:.3f} | {accelerator.get(part, after[part]):.3f} |"
    replaced = f"{after['request'] - after['gnn'] + accelerator['gnn']:.2f}, predicted" if parts else "–"
    yield f"| request | {before['request']:.2f} | {after['request']:.2f} | {replaced} |"
    published = found["published"]
    yield f"| request, published | {published['unoptimised']:.0f} | | {published['optimised']:.0f} |"


def _of_parts(parts: dict[str, str]) -> str:
    """What the rows of components are of."""
    if not parts:
        return "The components were not timed inside these requests."
    head = "" if "head" in parts else " This model has no MLP."
    return f"Components are timed inside the requests of their column.{head}"


def _external(found: dict[str, Any]) -> Iterator[str]:
    stream, exact = found["stream"], found["exact"]
    yield (
        f"External memory: {found['memory']}, peak {found['peak_mb_per_s']:,.0f} MB/s at {found['mhz']:.0f} MHz, "
        f"batches of {found['users']} users. A stream of {stream['items']:,} targets reaches "
        f"{stream['share_of_peak']:.1%} of the peak, a whole batch over {exact['items']} items has "
        f"{exact['mismatches']} mismatches (*simulated*). "
        "Microseconds per user, *estimated* (lower and upper bound) for the accelerator with full batches, and "
        "*measured* on one thread for the others; recall of the contract's own ten best, in the lists of all users of "
        "a batch, which the accelerator streams, and in a user's own, which FAISS searches:\n"
    )
    yield "| items | lists | recall@10, of the batch | accelerator | recall@10, of the user | FAISS | NumPy |"
    yield "|---|---|---|---|---|---|---|"
    for items in [name for name in found if name.isdigit()]:
        rows = found[items]
        peers = f"{rows['faiss_flat_us_per_user']:,.0f} (flat) | {rows['numpy_us_per_user']:,.0f}"
        yield f"| {int(items):,} | all | 1.000 | {_span(rows['exact'])} | 1.000 | {peers} |"
        for name in [one for one in rows if one.startswith("probes_")]:
            row, lists = rows[name], name.removeprefix("probes_")
            peer = f"{row['recall_at_10_alone']:.3f} | {row['faiss_ivf_us_per_user']:,.0f} (IVF)"
            yield f"| | {lists} per user | {row['recall_at_10']:.3f} | {_span(row)} | {peer} | |"


def _span(row: dict[str, Any]) -> str:
    return f"{row['us_per_user_least']:,.0f} … {row['us_per_user_most']:,.0f}"
