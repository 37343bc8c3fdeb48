"""The integer contract on real bundles: its lists against those of the floats, and the accelerator of each variant.

Test events are those of the bundle's own split, which its variants did not see: a closed form is refitted on the events
for validation, never on those for the test.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators import routed
from lanner.accelerators.build import sizes_for, sizes_of
from lanner.accelerators.contract import Contract, contract_of, requests_of
from lanner.accelerators.emulator import Emulator
from lanner.accelerators.fpga.netlist import DEVICES, logic, multipliers
from lanner.accelerators.reference import answer
from lanner.artifacts.bundle import Bundle, read_bundle
from lanner.config import from_dict
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.data.split import HeldOut
from lanner.errors import ConfigError
from lanner.evaluation.protocol import evaluate
from lanner.inference.ranker import Query, RankedScorer, Ranker
from lanner.inference.scoring_model import ScoringModel, SparseRows
from lanner.registry import SPLITS

SEED, K = 0, 10
VARIANTS = ("int8", "distilled")
DEVICE = "ecp5-85f"
FITTED, TIMED = 1000, 200
"""Users whose scores fit the scales; users whose requests are timed."""


class _Integers:
    """The contract's lists, as the protocol evaluates them."""

    def __init__(self, contract: Contract, model: ScoringModel) -> None:
        self._contract, self._model, self.num_items = contract, model, contract.num_items

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        raise NotImplementedError

    def rank(
        self, users: UserBatch, k: int, excluded: Ragged, candidates: NDArray[np.int32] | Ragged | None
    ) -> NDArray[np.int32]:
        requests = requests_of(self._contract, self._model, replace(users, seen=excluded), k)
        return np.array([answer(self._contract, request).rows for request in requests], np.int32)


def quality(bundles: Sequence[Path], users: int) -> dict[str, Any]:
    """By bundle and variant: overlap and NDCG of the contract's lists with those of the floats, and on test events."""
    found: dict[str, Any] = {"tag": "measured"}
    for path in bundles:
        bundle = read_bundle(path)
        everyone = bundle.dataset.user_batch()
        order = np.random.default_rng(SEED).permutation(len(everyone))
        asked, fitted = everyone.take(np.sort(order[:users])), everyone.take(np.sort(order[users : users + FITTED]))
        held_out = _held_out(bundle, users)
        for name in [one for one in VARIANTS if one in bundle.variants]:
            model = bundle.variant(name).model
            contract = Contract.of(model, fitted)
            row = _against_floats(model, contract, asked) | _on_test_events(bundle, model, contract, held_out)
            found[f"{path.name}/{name}"] = row
            print(f"  {path.name}/{name}: {row}", flush=True)
    return found


def _held_out(bundle: Bundle, users: int) -> HeldOut:
    """The test events of some users of a bundle's split."""
    config = from_dict(bundle.config)
    test = SPLITS[config.split.name](bundle.dataset, config.split).test
    if not len(test):
        raise ConfigError(
            f"{bundle.path}: its split holds no test events out; give a bundle of lanner run without --refit"
        )
    return test.take(np.sort(np.random.default_rng(SEED).permutation(len(test))[:users]))


def _on_test_events(bundle: Bundle, model: ScoringModel, contract: Contract, held_out: HeldOut) -> dict[str, Any]:
    """NDCG@10 of the contract, the same codes in floats and the full variant, without profiles; losses, relative."""
    scorers = {
        "contract": _Integers(contract, model),
        "same_codes": RankedScorer(_same_codes(model, contract)),
        "full": RankedScorer(bundle.variant("full").model),
    }
    figures = {name: evaluate(one, held_out, (K,), ("ndcg",))[f"ndcg_at_{K}"] for name, one in scorers.items()}
    losses = {f"ndcg_loss_{name}": 1 - figures["contract"] / figures[name] for name in ("same_codes", "full")}
    return {"test_users": len(held_out)} | {f"test_ndcg_at_10_{name}": one for name, one in figures.items()} | losses


def _against_floats(model: ScoringModel, contract: Contract, asked: UserBatch) -> dict[str, Any]:
    lists = [answer(contract, request).rows for request in requests_of(contract, model, asked, K)]
    row: dict[str, Any] = {"dimensions": contract.dimensions, "users": len(asked), "score_shift": contract.score_shift}
    for name, form in (("same_codes", _same_codes(model, contract)), ("variant", model)):
        scores = form.score(asked)
        for user in range(len(asked)):
            scores[user, asked.history[user] if asked.seen is None else asked.seen[user]] = -np.inf
        wanted = np.lexsort((np.broadcast_to(np.arange(scores.shape[1]), scores.shape), -scores))[:, :K]
        row[f"overlap_at_10_{name}"] = np.mean([np.isin(a, b).mean() for a, b in zip(lists, wanted, strict=True)])
        row[f"identical_lists_{name}"] = np.mean([(a == b).all() for a, b in zip(lists, wanted, strict=True)])
        row[f"ndcg_at_10_against_{name}"] = np.mean([_ndcg(a, b) for a, b in zip(lists, wanted, strict=True)])
    return row


def _same_codes(model: ScoringModel, contract: Contract) -> ScoringModel:
    sparse = contract.sparse
    if sparse is None:
        return model
    values = sparse.codes * np.repeat(sparse.scale, np.diff(sparse.indptr)) * contract.units.sparse
    return replace(model, item_to_item=SparseRows(sparse.indptr, sparse.items, values.astype(np.float32)))


def _ndcg(found: np.ndarray, wanted: np.ndarray) -> float:
    """NDCG of a list, with the wanted ten graded by their rank: 1 for the same list."""
    gain = dict(zip(wanted.tolist(), range(K, 0, -1), strict=True))
    discount = 1 / np.log2(np.arange(K) + 2)
    ideal = float((np.arange(K, 0, -1) * discount).sum())
    return float((np.array([gain.get(row, 0) for row in found.tolist()]) * discount).sum()) / ideal


def real_bundles(bundles: Sequence[Path]) -> dict[str, Any]:
    """By bundle and variant: the accelerator it needs, its cycles, and the variant on one thread of this machine.

    Cycles are those of the emulator with as many lanes as the device was routed with, whether or not it fits.
    """
    found: dict[str, Any] = {"tag": "estimated", "device": DEVICE, "mhz": routed.MHZ[DEVICE]}
    for path in bundles:
        bundle = read_bundle(path)
        embeddings = [one for one in bundle.variants if one.startswith("embeddings-")]
        for name in [*(one for one in VARIANTS if one in bundle.variants), *embeddings]:
            try:
                found[f"{path.name}/{name}"] = row = _accelerated(bundle, name)
            except ConfigError as error:  # a head, or tables in floats: no integer form
                print(f"  {path.name}/{name}: {error}", flush=True)
                continue
            print(f"  {path.name}/{name}: {row}", flush=True)
    return found


def _accelerated(bundle: Bundle, name: str) -> dict[str, Any]:
    variant, everyone = bundle.variant(name), bundle.dataset.user_batch()
    contract = contract_of(variant.model, bundle.dataset, variant.figures.get("contract"))
    users = everyone.take(np.sort(np.random.default_rng(SEED).permutation(len(everyone))[:TIMED]))
    sizes, lacks = sizes_of(contract, K, routed.LANES[DEVICE]), None
    try:
        sizes = sizes_for(contract, DEVICE, K)
    except ConfigError as error:
        lacks = str(error)
    emulator = Emulator(contract, sizes)
    cycles = [emulator.cycles(request) for request in requests_of(contract, variant.model, users, K)]
    registers, luts = logic(sizes)
    return {
        "items": contract.num_items,
        "dimensions": contract.dimensions,
        "tables": 1 if contract.tied else 2,
        "lanes": sizes.lanes,
        "memories": sizes.block_rams,
        "memories_of_device": DEVICES[DEVICE].block_rams,
        "multipliers": multipliers(sizes),
        "registers": registers,
        "luts": luts,
        "lacks": lacks,
        "cycles_p50": float(np.percentile(cycles, 50)),
        "cycles_p99": float(np.percentile(cycles, 99)),
        "cpu": _on_the_cpu(variant.model, users),
    }


def _on_the_cpu(model: ScoringModel, users: UserBatch) -> dict[str, Any]:
    """Microseconds per user of the ranker in floats."""
    ranker, times = Ranker(model), []
    for user in range(len(users)):
        rows = users.history[user].astype(np.int64)
        begun = time.perf_counter()
        ranker.rank([Query(rows, seen=rows, k=K)])
        times.append(1e6 * (time.perf_counter() - begun))
    return {"tag": "measured", "us_p50": float(np.percentile(times, 50)), "us_p99": float(np.percentile(times, 99))}
