"""Catalogues in external memory: cycles for 100,000 and 1,000,000 items against the same work on a processor, and the
recall lost if only some clusters of the catalogue are streamed.

Vectors are simulated (``_clustered.py``), 64 dimensions, users with 50 items. A batch has 8 users, lists of 10.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._clustered import clustered_catalogue, clustered_histories
from lanner.accelerators.contract import Contract, Request, requests_of
from lanner.accelerators.fpga.batch_cycles import Gather, batch_cycles, read_cycles
from lanner.accelerators.fpga.batches import batch_packet, memory_image, read_batch, within
from lanner.accelerators.fpga.ddr3 import MT41K128M16, Memory, Timing
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.simulate_streamed import run_batches, run_reader
from lanner.accelerators.fpga.streamed import Batch
from lanner.accelerators.reference import LARGEST_SCORE, answer, rounded, user_vector
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import Int8Rows

DIMENSIONS, LANES, USERS, K = 64, 16, 8, 10
MHZ = 75.0
"""Of the memory controller on an ECP5, as LiteX builds it for boards; the design itself was not routed."""
SMALL, SIMULATED, CATALOGUES = 100, 20_000, (100_000, 1_000_000)
"""Items: of whole batches, and of the stream, in Amaranth's simulator; of the rows compared with a processor."""
LISTS, PROBES, ASKED = 1024, (1, 4, 16, 32, 64, 128, 256), 32


def batch_of(items: int, score_shift: int) -> Batch:
    """The accelerator for a catalogue."""
    return Batch(Parameters(DIMENSIONS, LANES, items, items, K, score_shift, requantisers=1), USERS)


def model_of(items: int, users: int, order: NDArray[np.int64] | None = None) -> tuple[ScoringModel, UserBatch]:
    """An INT8 model in one table, and users who have not seen any of its items. order: how its rows are arranged."""
    random = np.random.default_rng(0)
    vectors, share = clustered_catalogue(items, random)
    histories = clustered_histories(vectors, share, random, users)
    if order is not None:
        vectors, share, histories = vectors[order], share[order], np.argsort(order)[histories]
    table = Int8Rows.of(vectors)
    popularity = share.astype(np.float32)
    bias = popularity / popularity.max() * np.float32(0.01)
    return ScoringModel(table, table, bias, popularity, (DIMENSIONS,)), UserBatch(Ragged.from_lists(list(histories)))


def external() -> dict[str, Any]:
    """Rows by number of items; see the module docstring."""
    timing = Timing.of(MT41K128M16, MHZ)
    found: dict[str, Any] = {
        "memory": "one MT41K128M16JT-125 on 16 pins behind LiteDRAM, modelled",
        "mhz": MHZ,
        "peak_mb_per_s": MT41K128M16.word_bits / 8 / timing.apart * MHZ,
        "users": USERS,
    }
    for items in CATALOGUES:
        print(f"  {items:,} items", flush=True)
        found[str(items)] = _catalogue(items, timing)
    print("  simulation", flush=True)
    return found | {"exact": _small(timing), "stream": _stream(timing)}


def _small(timing: Timing) -> dict[str, Any]:
    """A whole batch in the simulator: answers compared with the contract, cycles with the model."""
    model, users = model_of(SMALL, USERS)
    contract = Contract.of(model, users)
    batch = batch_of(SMALL, contract.score_shift)
    requests, lists = requests_of(contract, model, users, K), [(0, SMALL)]
    memory = Memory(timing, memory_image(contract, batch))
    answers, cycles = run_batches(batch, memory, [batch_packet(contract, requests, lists)])
    got, status = read_batch(answers[0], K)
    wanted = [answer(contract, request) for request in requests]
    pairs = zip(got, wanted, strict=True)
    same = [np.array_equal(a.rows, b.rows) and np.array_equal(a.scores, b.scores) for a, b in pairs]
    span = batch_cycles(batch, timing, _gathers(requests, lists), lists)
    mismatches = USERS - sum(same) + int(status)
    return {"tag": "simulated", "items": SMALL, "mismatches": mismatches, "cycles": cycles[0], "model": list(span)}


def _stream(timing: Timing) -> dict[str, Any]:
    """Stream the targets of a catalogue through reader and memory: the share of the memory's peak bandwidth reached."""
    words = SIMULATED * batch_of(SIMULATED, 0).record
    empty = np.broadcast_to(np.zeros(LANES, np.uint8), (words, LANES))
    cycles, _ = run_reader(8 * LANES, Memory(timing, empty), [(0, words)])
    span = read_cycles(timing, [(0, words)])
    share = words * timing.apart / cycles
    return {"tag": "simulated", "items": SIMULATED, "cycles": cycles, "model": list(span), "share_of_peak": share}


def _catalogue(items: int, timing: Timing) -> dict[str, Any]:
    import faiss

    faiss.omp_set_num_threads(1)
    plain, _ = model_of(items, 1)
    vectors = _floats(plain)
    clusters = faiss.Kmeans(DIMENSIONS, LISTS, niter=6, seed=0, max_points_per_centroid=64)
    clusters.train(vectors)
    member = clusters.index.search(vectors, 1)[1][:, 0]
    order = np.argsort(member, kind="stable")
    model, users = model_of(items, ASKED, order)
    contract = Contract.of(model, users)
    batch = batch_of(items, contract.score_shift)
    requests = requests_of(contract, model, users, K)
    counts = np.bincount(member, minlength=LISTS)
    ends = np.cumsum(counts)
    runs = list(zip((ends - counts).tolist(), counts.tolist(), strict=True))
    vectors, best = _floats(model), _best(contract, requests)
    floats = np.stack([vectors[users.history[user]].mean(axis=0) for user in range(ASKED)])
    centroids = np.asarray(clusters.centroids)
    nearest = np.argsort(-(floats @ centroids.T), axis=1, kind="stable")
    everything, flat = [(0, items)], faiss.IndexFlatIP(DIMENSIONS)
    flat.add(vectors)
    row: dict[str, Any] = {
        "exact": _predicted(batch, timing, requests, lambda _: everything) | {"recall_at_10": 1.0},
        "numpy_us_per_user": _timed(lambda: _numpy(vectors, users.history, range(USERS))),
        "faiss_flat_us_per_user": _timed(lambda: flat.search(floats[:USERS], K)),
    }
    inverted = faiss.IndexIVFFlat(clusters.index, DIMENSIONS, LISTS, faiss.METRIC_INNER_PRODUCT)
    inverted.add(vectors)
    listed = np.searchsorted(ends, best, side="right")
    for probes in PROBES:
        asked = nearest[:, :probes]
        inverted.nprobe = probes

        def lists(users_asked: Sequence[int], asked: NDArray[np.int64] = asked) -> list[tuple[int, int]]:
            return [runs[one] for one in np.unique(asked[list(users_asked)]) if runs[one][1]]

        alone = np.mean([np.isin(listed[user], asked[user]).mean() for user in range(ASKED)])
        batches = [asked[user // USERS * USERS :][:USERS] for user in range(ASKED)]
        shared = np.mean([np.isin(rows, lists_asked).mean() for rows, lists_asked in zip(listed, batches, strict=True)])
        row[f"probes_{probes}"] = _predicted(batch, timing, requests, lists) | {
            "recall_at_10_alone": float(alone),
            "recall_at_10": float(shared),
            "faiss_ivf_us_per_user": _timed(lambda: inverted.search(floats[:USERS], K)),
        }
        print(f"    {probes} probes: {row[f'probes_{probes}']}", flush=True)
    return row


def _floats(model: ScoringModel) -> NDArray[np.float32]:
    assert isinstance(model.target_ID, Int8Rows)
    return np.ascontiguousarray(model.target_ID.codes * model.target_ID.scale[:, None], np.float32)


def _gathers(requests: Sequence[Request], lists: Sequence[tuple[int, int]]) -> list[Gather]:
    return [Gather(one.rows.tolist(), len(within(one.seen, lists))) for one in requests]


def _predicted(
    batch: Batch,
    timing: Timing,
    requests: Sequence[Request],
    lists: Callable[[Sequence[int]], list[tuple[int, int]]],
) -> dict[str, Any]:
    """Time per user with full batches, averaged over batches: lower and upper bound."""
    spans = []
    for first in range(0, len(requests), USERS):
        asked = lists(range(first, first + USERS))
        spans.append(batch_cycles(batch, timing, _gathers(requests[first : first + USERS], asked), asked))
    least, most = np.mean(spans, axis=0) / MHZ / USERS
    return {"tag": "estimated", "us_per_user_least": float(least), "us_per_user_most": float(most)}


def _best(contract: Contract, requests: Sequence[Request]) -> NDArray[np.int64]:
    """Rows of the contract's exact lists, ``[users, K]``: the reference for all approximations."""
    target_DI, found = contract.target.T.astype(np.float64), []
    for request in requests:
        dots = (user_vector(contract, request).astype(np.float64) @ target_DI).astype(np.int64)
        scores = rounded(dots * contract.target_scale.astype(np.int64), contract.score_shift) + contract.bias
        scores = np.clip(scores, -LARGEST_SCORE, LARGEST_SCORE)
        scores[request.seen] = -LARGEST_SCORE - 1
        near = np.flatnonzero(scores >= np.partition(scores, -K)[-K])
        found.append(near[np.lexsort((near, -scores[near]))][:K])
    return np.stack(found)


def _numpy(vectors: NDArray[np.float32], histories: Ragged, users: Sequence[int]) -> None:
    """A batch in float32: gather, mean, scores, ten best."""
    asked = np.stack([vectors[histories[user]].mean(axis=0) for user in users])
    scores = asked @ vectors.T
    for line, user in zip(scores, users, strict=True):
        line[histories[user]] = -np.inf
        best = np.argpartition(line, -K)[-K:]
        best[np.argsort(-line[best])]


def _timed(work: Callable[[], Any]) -> float:
    """Microseconds per user in the fastest of nine batches, on one thread: excludes other load on the machine."""
    times = []
    for _ in range(9):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return 1e6 * min(times) / USERS
