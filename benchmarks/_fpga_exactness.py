"""The engine in Verilator on users of ml-1m and on corners: answers against the contract, cycles against the model."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds

from lanner.accelerators.contract import MAX_HISTORY, Contract, Request, requests_of
from lanner.accelerators.fpga import protocol
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.verilated import VerilatedEngine
from lanner.accelerators.reference import answer
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Int8Rows

SEED, K, DIMENSIONS, DEPTH = 0, 10, 64, MAX_HISTORY
"""DEPTH: items and rows on chip, which the longest history needs."""
USER_AND_ITEM = ("user_id", "movie_id")
HOSTS = ((1.0, 1.0), (0.5, 0.4), (0.9, 0.1))
"""Shares of cycles in which the host offers a word, and takes one."""


def movielens() -> tuple[ScoringModel, UserBatch]:
    """Users of ml-1m, and the leading right singular vectors of their matrix, in INT8, as one table."""
    frame = pl.read_parquet(Path(os.environ["LANNER_DATA"]) / "ml-1m" / "ratings.parquet")
    user, item = (np.unique(frame[name].to_numpy(), return_inverse=True)[1] for name in USER_AND_ITEM)
    histories = Ragged.from_pairs(user, item, int(user.max()) + 1)
    counts = np.bincount(item).astype(np.float32)
    matrix = csr_matrix((np.ones(len(user), np.float32), (user, item)))
    vectors = svds(matrix, DIMENSIONS, random_state=SEED)[2].T
    table = Int8Rows.of(np.ascontiguousarray(vectors, np.float32))
    bias = (1e-6 * counts / counts.max()).astype(np.float32)
    return ScoringModel(table, table, bias, counts, (DIMENSIONS,)), UserBatch(histories)


def exactness(number: int, folder: Path) -> dict[str, Any]:
    """Every answer and every latency of the given number of requests: users, then users with half of their history."""
    model, users = movielens()
    contract = Contract.of(model, users.take(np.arange(0, len(users), 5)))
    halves = Ragged.from_lists([users.history[user][: len(users.history[user]) // 2] for user in range(len(users))])
    both = UserBatch(users.history), UserBatch(halves)
    requests = [request for batch in both for request in requests_of(contract, model, batch, K)][:number]
    sizes = Parameters(DIMENSIONS, DIMENSIONS, DEPTH, DEPTH, K, contract.score_shift)
    engine = VerilatedEngine(sizes, folder)
    ran = _compared(engine, sizes, contract, requests)
    mean = round(float(np.mean(users.history.lengths)))
    return {
        "tag": "simulated",
        "items": contract.num_items,
        "dimensions": DIMENSIONS,
        "users_bit_exact": len(requests) - ran["mismatches"],
        **ran,
        "adversarial": _adversarial(engine, sizes),
        "mean_history": mean,
        "cycles_mean_history": request_cycles(sizes, mean, contract.num_items, K),
    }


def _compared(
    engine: VerilatedEngine,
    sizes: Parameters,
    contract: Contract,
    requests: Sequence[Request],
    offered: float = 1.0,
    taken: float = 1.0,
) -> dict[str, Any]:
    """Answers against the contract; for a quick host, cycles against the model, and their spread at equal lengths."""
    packets = [*protocol.load(contract, sizes), *map(protocol.request_packet, requests)]
    lists = [request.k for request in requests]
    ran = engine.run(packets, protocol.settings(contract), lists, offered=offered, taken=taken)
    mismatches = 0
    for words, request in zip(ran.answers, requests, strict=True):
        found, status = protocol.read_answer(words)
        wanted = answer(contract, request)
        same = np.array_equal(found.rows, wanted.rows) and np.array_equal(found.scores, wanted.scores)
        mismatches += bool(status) or not same
    row = {"mismatches": mismatches, "cycles": ran.cycles, "simulation_cycles_per_s": ran.cycles / ran.seconds}
    if (offered, taken) != (1.0, 1.0):
        return row
    model = [request_cycles(sizes, len(one.rows), contract.num_items, one.k) for one in requests]
    lengths = [(len(one.rows), len(one.seen), one.k) for one in requests]
    return row | {"cycle_model_error": int(np.abs(ran.latencies - model).max())} | _spread(ran.latencies, lengths)


def _spread(latencies: NDArray[np.int64], lengths: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    """The largest p99 / p50 of the latencies of requests with equal history, seen rows and list."""
    groups: dict[tuple[int, int, int], list[int]] = {}
    for of, latency in zip(lengths, latencies.tolist(), strict=True):
        groups.setdefault(of, []).append(latency)
    several = [one for one in groups.values() if len(one) > 1]
    ratios = [float(np.percentile(one, 99) / np.percentile(one, 50)) for one in several]
    return {"groups_of_equal_lengths": len(several), "latency_p99_over_p50": max(ratios, default=None)}


def _adversarial(engine: VerilatedEngine, sizes: Parameters) -> dict[str, Any]:
    """Corners: every shift, ties everywhere, saturation, empty and longest histories, all seen, slow hosts."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "accelerators"))
    from small_models import extreme_contract, extreme_requests

    contract = extreme_contract(DEPTH, DIMENSIONS, sizes.score_shift)
    requests = extreme_requests(contract, K)
    rows = [_compared(engine, sizes, contract, requests, *host) for host in HOSTS]
    return {
        "requests": len(requests),
        "longest_history": max(len(one.rows) for one in requests),
        "hosts": [
            {"offered": offered, "taken": taken, **row} for (offered, taken), row in zip(HOSTS, rows, strict=True)
        ],
        "mismatches": sum(row["mismatches"] for row in rows),
        "cycle_model_error": rows[0]["cycle_model_error"],
    }
