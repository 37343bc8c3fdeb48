"""Bytes, seconds and quality of data parallelism with compressed or infrequent all-reduce, over 100 Mbit/s links.

    python -m benchmarks.gradient_compression              2 and 4 ranks; writes gradient_compression.json
    python -m benchmarks.gradient_compression --short      2 ranks, a few steps; writes nothing
    python -m benchmarks.gradient_compression --summarise  computes the summary of the recorded runs anew

Full fine-tuning of a small encoder on pairs of texts; quality is ndcg@10 of each text's partner among held-out texts.
Bytes are counted by the code and by the kernel. Time to the same loss: until the mean of the last ten losses is that of
dense sums at 90 % of their steps. Loopback and LoRA, where compression does not pay, are included as rows.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import _record
from benchmarks._racks import NetworkRacks, bytes_sent, can_be_built
from benchmarks._ranks import run_ranks
from benchmarks._record import record
from benchmarks._small_towers import VOCABULARY, pairs_loss, small_chain
from lanner.distributed.averaging import Averaging
from lanner.distributed.chain import Stage
from lanner.distributed.compressors import compressor_of
from lanner.distributed.config import AveragingConfig
from lanner.distributed.synchroniser import Synchroniser
from lanner.distributed.wire import Wire

CORE_MBIT, HOST_MBIT, STEPS, ROWS, WIDTH, HELD_OUT, DENSE_STEPS = 100, 1000, 400, 32, 128, 10**6, 20
WITHIN, FEWER_BYTES, FASTER, FASTER_APART = 0.005, 50, 3, 5
"""Largest loss of ndcg@10; ratio of bytes, and speedup of compressed and of rare sums, that a method is to reach."""
SYNCHRONOUS = ("none", "fp16", "int8", "sign", "topk:0.01", "powersgd:1", "powersgd:2")
AVERAGED = {
    "local SGD 20": AveragingConfig(outer_rate=1.0, outer_momentum=0.0),
    "DiLoCo 20": AveragingConfig(),
    "DiLoCo 20 int8": AveragingConfig(compression="int8"),
    "streaming DiLoCo 20, 4 fragments, int8": AveragingConfig(fragments=4, delay=2, compression="int8"),
}


def train(kind: str, steps: int, lora: bool, counted: bool) -> dict[str, Any]:
    """Train with one method; called on every rank."""
    chain = small_chain("bert", width=WIDTH, lora=lora)
    stage, rank, ranks = Stage(chain, 0, len(chain.layers)), dist.get_rank(), dist.get_world_size()
    parameters = {name: one for name, one in stage.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), 1e-3 if not lora else 5e-3)
    wire = Wire(dist.new_group())
    averaging = Averaging(parameters, wire, AVERAGED[kind]) if kind in AVERAGED else None
    dense = 0 if kind == "none" or averaging else min(DENSE_STEPS, steps // 4)
    sums = None if averaging else Synchroniser(parameters, wire, compressor_of(kind), dense_steps=dense, expected=1)
    losses, moments = [], []
    dist.barrier()
    begun, before = time.perf_counter(), bytes_sent() if counted else 0
    warm = 0
    for step in range(steps):
        if step == dense:
            warm = wire.sent
        ids, mask = related(step * ranks + rank, ROWS)
        loss = pairs_loss(stage(ids, mask)) / (1 if averaging else ranks)
        loss.backward()
        if sums is not None:
            sums.finish()
        optimizer.step()
        optimizer.zero_grad()
        if averaging is not None:
            averaging.after_batch()
        losses.append(float(loss.detach()) * (1 if averaging else ranks))
        moments.append(time.perf_counter() - begun)
    if averaging is not None:
        averaging.finish()
    dist.barrier()
    total = torch.tensor([wire.sent, wire.sent - warm, (bytes_sent() - before) if counted else 0], dtype=torch.float64)
    dist.all_reduce(total)
    curve = torch.tensor(losses)
    dist.all_reduce(curve)
    return {
        "losses": (curve / ranks).tolist(),
        "moments": moments,
        "bytes_per_step": float(total[1]) / ranks / max(1, steps - dense),
        "bytes_with_warm_up": float(total[0]) / ranks / steps,
        "bytes_by_kernel": float(total[2]) / ranks / steps,
        "ndcg": ndcg(stage),
        "seconds": moments[-1],
    }


def related(step: int, rows: int, topics: int = 3, each: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask ``[rows, topics × 2]``: texts 2i and 2i + 1 share their topics, to be inferred from their words.

    A topic has ``each`` words, spread over the vocabulary; a text has two of each of its topics.
    """
    draw = torch.Generator().manual_seed(step)
    about = torch.randint(1, VOCABULARY // each, (rows // 2, topics), generator=draw).repeat_interleave(2, 0)
    words = torch.randint(each, (rows, topics, 2), generator=draw)
    ids = (words * (VOCABULARY // each) + about[:, :, None]).flatten(1)
    return ids, torch.ones_like(ids)


@torch.no_grad()
def ndcg(stage: Stage) -> float:
    """Mean ndcg@10 of the partner of each held-out text among all of them."""
    ids, mask = related(HELD_OUT, 1024)
    vectors_BD = stage(ids, mask)
    scores_BB = vectors_BD @ vectors_BD.T - 10 * torch.eye(len(ids))
    partner_B = torch.arange(len(ids)) ^ 1
    place_B = (scores_BB > scores_BB.gather(1, partner_B[:, None])).sum(1)
    return float(torch.where(place_B < 10, 1 / torch.log2(place_B + 2.0), 0.0).mean())


def seconds_to(run: dict[str, Any], target: float) -> float | None:
    """Seconds until the mean of ten losses is as low as ``target``; None: it never is."""
    losses = torch.tensor(run["losses"])
    means = losses.unfold(0, 10, 1).mean(1)
    able = (means <= target).nonzero()
    return run["moments"][int(able[0]) + 9] if len(able) else None


def cell(ranks: int, steps: int, *, lora: bool = False, shaped: bool = True) -> dict[str, dict[str, Any]]:
    """All methods for one number of ranks."""
    runs = {}
    for kind in (*SYNCHRONOUS, *AVERAGED):
        runs[kind] = run_ranks(ranks, train, kind, steps, lora, shaped, in_racks=shaped)
    losses = torch.tensor(runs["none"]["losses"])
    target = float(losses[: int(0.9 * len(losses))][-10:].mean())
    dense = seconds_to(runs["none"], target)
    rows = {}
    for kind, run in runs.items():
        reached = seconds_to(run, target)
        rows[kind] = {name: value for name, value in run.items() if name not in ("losses", "moments")} | {
            "final_loss": sum(run["losses"][-10:]) / 10,
            "seconds_to_loss": reached,
            "speedup": None if reached is None or dense is None else dense / reached,
            "bytes_ratio": runs["none"]["bytes_per_step"] / run["bytes_per_step"],
            "ndcg_loss": 1 - run["ndcg"] / runs["none"]["ndcg"],
        }
        print(ranks, "lora" if lora else "full", "shaped" if shaped else "loopback", kind,
              {name: value and round(value, 4) for name, value in rows[kind].items()}, flush=True)  # fmt: skip
    return rows


def summary(cells: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Figures of two ranks, and of four where they were measured; each with the method that it is of."""
    found = best(cells["2 ranks"])
    return found | {"four_ranks": best(cells["4 ranks"])} if "4 ranks" in cells else found


def best(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The best method by each figure, with quality within 0.5 % of dense sums; None if there is none.

    meets_both: the fastest method that also sends few enough bytes, of each kind.
    """

    def by(kinds: tuple[str, ...], figure: str, least: dict[str, float] | None = None) -> str | None:
        able = [kind for kind in kinds if rows[kind]["ndcg_loss"] <= WITHIN and rows[kind][figure]]
        able = [kind for kind in able if all((rows[kind][name] or 0) >= bar for name, bar in (least or {}).items())]
        return max(able, key=lambda kind: rows[kind][figure], default=None)

    def value(kind: str | None, figure: str) -> float | None:
        return None if kind is None else rows[kind][figure]

    compressed, averaged = SYNCHRONOUS[1:], tuple(AVERAGED)
    smallest, fastest, rarest = by(compressed, "bytes_ratio"), by(compressed, "speedup"), by(averaged, "speedup")
    return {
        "bytes_ratio": value(smallest, "bytes_ratio"),
        "bytes_ratio_method": smallest,
        "ndcg_loss": value(smallest, "ndcg_loss"),
        "sync_speedup": value(fastest, "speedup"),
        "sync_speedup_method": fastest,
        "async_speedup": value(rarest, "speedup"),
        "async_speedup_method": rarest,
        "meets_both": {
            "synchronous": by(compressed, "speedup", {"bytes_ratio": FEWER_BYTES, "speedup": FASTER}),
            "asynchronous": by(averaged, "speedup", {"bytes_ratio": FEWER_BYTES, "speedup": FASTER_APART}),
        },
    }


def summarise() -> Path:
    """Compute the summary of the recorded cells anew; nothing else in the file changes."""
    path = _record.RESULTS / "gradient_compression.json"
    entry = json.loads(path.read_text())
    entry["results"]["summary"] = summary(entry["results"]["cells"])
    draft = path.with_suffix(".json.partial")
    draft.write_text(json.dumps(entry, indent=1, allow_nan=False) + "\n")
    draft.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--summarise", action="store_true")
    arguments = parser.parse_args()
    if arguments.summarise:
        print(summarise())
        return
    short = arguments.short
    if not can_be_built():
        sys.exit("benchmarks.gradient_compression needs root and the commands ip and tc, for network namespaces")
    torch.set_num_threads(1)
    steps = 20 if short else STEPS
    cells = {}
    for ranks in (2,) if short else (2, 4):
        with NetworkRacks(ranks, ranks // 2, HOST_MBIT, CORE_MBIT):
            cells[f"{ranks} ranks"] = cell(ranks, steps)
            if not short:
                cells[f"{ranks} ranks, LoRA"] = cell(ranks, steps, lora=True)
    if not short:
        cells["2 ranks, loopback"] = cell(2, steps, shaped=False)
    found = summary(cells)
    print(found)
    if not short:
        settings = {"steps": STEPS, "rows": ROWS, "width": WIDTH, "core_mbit": CORE_MBIT, "dense_steps": DENSE_STEPS}
        print(record("gradient_compression", seed=0, settings=settings, results={"summary": found, "cells": cells}))


if __name__ == "__main__":
    main()
