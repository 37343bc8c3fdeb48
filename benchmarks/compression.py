"""How much faster and smaller the compressed variants are, and what they cost in accuracy.

``python -m benchmarks.compression`` writes ``compression.json`` as ``results[dataset][variant][backend]`` with
ndcg_at_10 (test), ndcg_relative_loss, p50_ms, p99_ms, requests_per_s, size_mib and peak_mib, and ``results.summary``.

ml-1m: the trained hybrid of the quality suite. One request is one user: a history from the dataset and a text of 32
tokens that was never seen before, answered with the ten best items. *Baseline*: torch eager in float32 as trained; the
text goes through the language model and every item through views, fusion and ranking head, for each request.
``encoder`` rows time the encoder alone, ``full-catalogue`` rows the scoring of all items in each runtime;
``encoder-steps`` holds size, texts a second, cosine to the teacher and validation ndcg of every form that was tried.
Processes of the same row differ by up to a third, so a row is asked in ROUNDS processes of its own and all rows take
turns, the variants of one runtime next to each other. All processes read one index, built once a run. p50_ms, p99_ms,
requests_per_s and peak_mib are medians over the rounds; p50_ms_by_round keeps every one; ndcg is the first round's.
peak_mib is what a process had when its requests were done.

ml-1m-cold: the hybrid of the cold-items protocol, whose cold items are given as new ones, by their texts alone, once
read by the whole encoder and once by a small one that was taught on the other items' texts.

clustered-1m: 1,000,000 vectors of 64 dimensions (a mixture of Gaussians, lengths and request histories following the
popularity of gowalla's items; simulated, not learned) behind the whole engine with an MLP head of 64 neurons over 500
candidates, against the bare FAISS search of the same index at the same effort.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _record
from benchmarks._quality_settings import SETTINGS

SEED = 1
THREADS = 2
WARM, REQUESTS = 60, 300
"""Requests that come first, unmeasured, and those that are measured; none comes twice, for texts are remembered."""
ROUNDS = 5
CANDIDATES = 500
BUNDLE = Path("runs") / "compression" / "ml-1m"
RECOVERY_SECONDS = 200.0
BACKENDS = ("torch", "onnxruntime", "openvino", "numba")
MILLION, DIMENSIONS, HIDDEN, CLUSTERS = 1_000_000, 64, 64, 2_000
HISTORY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        choices=("ml-1m", "ml-1m-cold", "clustered-1m", "summary"),
        help="measure one part (or none), keep the other's figures",
    )
    parser.add_argument("--items", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--judge", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.items:
        print(json.dumps(_measure_catalogue(options.items, options.kind)))
        return
    if options.row:
        print(json.dumps(_row(*options.row, options.judge)))
        return
    results: dict[str, Any] = _earlier() if options.only else {}
    if options.only in (None, "ml-1m"):
        results["ml-1m"] = _measure_ml1m()
    if options.only in (None, "ml-1m-cold"):
        from benchmarks import _compression_cold

        results["ml-1m-cold"] = _compression_cold.measure(SEED, RECOVERY_SECONDS)
    if options.only in (None, "clustered-1m"):
        results["clustered-1m"] = _catalogues()
    results["summary"] = _summary(results)
    settings = {
        "threads": THREADS,
        "requests": REQUESTS,
        "rounds": ROUNDS,
        "candidates": CANDIDATES,
        "history": HISTORY,
    }
    settings |= {"recovery_seconds": RECOVERY_SECONDS, "dimensions": DIMENSIONS, "hidden": HIDDEN, "items": MILLION}
    print(_record.record("compression", seed=SEED, settings=settings, results=results))
    from benchmarks._compression_plots import draw

    draw(results)


def _earlier() -> dict[str, Any]:
    path = _record.RESULTS / "compression.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


# --- ml-1m ---------------------------------------------------------------------------------------------------------


def _measure_ml1m() -> dict[str, Any]:
    from lanner.artifacts.ladder import read_ladder
    from lanner.config import from_dict
    from lanner.pipeline import open_bundle
    from lanner.registry import SPLITS

    if not (BUNDLE / "ladder").exists():
        _build()
    bundle, ladder = open_bundle(BUNDLE), read_ladder(BUNDLE)
    config = from_dict(bundle.config)
    requests = _requests(bundle.dataset, SPLITS[config.split.name](bundle.dataset, config.split).test)
    rows: dict[str, Any] = {"commit": _record._commit()}
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requests.json"
        asked.write_text(json.dumps([(history.tolist(), text) for history, text in requests]))
        rows |= _in_rounds(ladder.names, str(asked))
    whole = rows["baseline"]["torch"]["ndcg_at_10"]
    for name in ("baseline", *ladder.names):
        for row in rows[name].values():
            row["ndcg_relative_loss"] = 1 - row["ndcg_at_10"] / whole
        print(name, json.dumps(rows[name]), flush=True)
    rows["encoder"] = _encoders(ladder)
    rows["encoder-steps"] = _encoder_steps(ladder)
    rows["full-catalogue"] = _full_catalogue(ladder)
    rows["stages"] = _stages(ladder, bundle.dataset.histories, requests[0][1])
    rows["report"] = {key: value for key, value in ladder.table["report"].items() if key != "tried"}
    rows["pruning"] = {
        key: value for key, value in ladder.rung("pruned").figures.items() if key.startswith("encoder_")
    } | {"head_neurons": _neurons(ladder, "full"), "head_neurons_kept": _neurons(ladder, "pruned")}
    return rows


def _in_rounds(names: Sequence[str], asked: str) -> dict[str, dict[str, dict[str, Any]]]:
    """``[variant][backend]`` of the baseline and of every rung: medians over ROUNDS processes each, taken in turns."""
    turns = [("baseline", "torch"), *((name, backend) for backend in BACKENDS for name in names)]
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
    for number in range(ROUNDS):
        for turn in turns:
            judge = [] if number else ["--judge"]
            rounds[turn].append(_own_process("--row", *turn, asked, *judge))
    rows: dict[str, dict[str, dict[str, Any]]] = {"baseline": {}, **{name: {} for name in names}}
    for (name, backend), found in rounds.items():
        medians = {key: float(np.median([one[key] for one in found])) for key in _TIMED}
        rows[name][backend] = {**found[0], **medians, "p50_ms_by_round": [one["p50_ms"] for one in found]}
    return rows


def _own_process(*arguments: str) -> dict[str, Any]:
    """What this script prints last when it is asked for one row."""
    command = [sys.executable, "-m", "benchmarks.compression", *arguments]
    written = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(written.splitlines()[-1]))


def _row(name: str, backend: str, path: str, judge: bool) -> dict[str, Any]:
    """Times and sizes of one row; ``judge``: its ndcg, too."""
    requests = [(np.array(history, np.int64), text) for history, text in json.loads(Path(path).read_text())]
    if name == "baseline":
        return _baseline(requests, judge)
    return _rung_row(name, backend, requests, Path(path).parent, judge)


def _test_split() -> tuple[Any, Any]:
    """The recommender and the split it is to be judged on."""
    from lanner.config import from_dict
    from lanner.pipeline import open_bundle
    from lanner.registry import SPLITS

    bundle = open_bundle(BUNDLE)
    config = from_dict(bundle.config)
    return bundle.recommender, SPLITS[config.split.name](bundle.dataset, config.split)


def _encoder_steps(ladder: Any) -> dict[str, Any]:
    """Every form of the encoder that was tried: what its own measuring found, when the ladder was made."""
    rungs = {name: ladder.rung(name).figures for name in ladder.names} | ladder.table["report"]["tried"]
    return {
        name: {
            "encoder_mib": figures["encoder_mib"],
            "validation_ndcg_at_10": figures["ndcg_at_10"],
            "backends": {
                backend: {key: one[key] for key in ("encode_p50_ms", "texts_per_s", "cosine")}
                for backend, one in figures["latency"].items()
            },
        }
        for name, figures in rungs.items()
        if "encoder_shape" in figures
    }


def _build() -> None:
    """The hybrid as the quality suite trains it, and its ladder."""
    from lanner.cli.console import Stages
    from lanner.compress import compress
    from lanner.compression.encoder import EncoderRecipe
    from lanner.config import from_dict, to_dict
    from lanner.pipeline import run
    from lanner.serving.profile import measure_rung

    settings = json.loads(json.dumps(SETTINGS["ml-1m/random-80-20"]["hybrid"]))
    config = from_dict({**settings, "data": {"path": "recipes/ml-1m.toml"}, "model": "hybrid"})
    config = replace(config, split=replace(config.split, seed=SEED))
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    if not BUNDLE.exists():
        run(from_dict(to_dict(config)), BUNDLE, Stages(), measure=False)
    compress(BUNDLE, recipe=EncoderRecipe(seconds=RECOVERY_SECONDS), measure=measure_rung, announce=Stages())


def _requests(dataset: Any, test: Any) -> list[tuple[NDArray[np.int32], str]]:
    """Histories of test users, and texts of 32 tokens: words of the catalogue's own texts in new combinations."""
    random = np.random.default_rng(SEED)
    words = [word for text in dataset.item_catalogue.texts[:2000] for word in text.split() if word.isalpha()]
    chosen = random.permutation(len(test))[: WARM + REQUESTS]
    tokenise = _tokeniser()
    return [(np.unique(test.users.history[row]), _text_of_32(random, words, tokenise)) for row in chosen]


def _tokeniser() -> Any:
    from lanner.models.language import LanguageEncoder

    return LanguageEncoder()


def _text_of_32(random: np.random.Generator, words: list[str], language: Any) -> str:
    """As many words as make 32 tokens with the special ones."""
    chosen = list(random.choice(words, 32))
    while len(language.token_ids([" ".join(chosen)])[0]) > 32:
        chosen.pop()
    return " ".join(chosen)


def _baseline(requests: Sequence[Any], judge: bool) -> dict[str, Any]:
    """The trained network in torch eager, float32, texts read for each request."""
    import torch

    from lanner.data.interactions import UserBatch
    from lanner.data.ragged import Ragged
    from lanner.evaluation.protocol import evaluate
    from lanner.models.language import LanguageEncoder
    from lanner.models.neural import NeuralRecommender

    torch.set_num_threads(THREADS)
    recommender, split = _test_split()
    eager = NeuralRecommender(recommender.config, None)
    eager.load_state(*recommender.state(), recommender.dataset)
    eager._encoder = LanguageEncoder(replace(recommender.config.encoder, dtype="float32", device="cpu", cache=False))
    network = eager.network

    def answer(history: NDArray[np.int64], text: str) -> None:
        eager.recommend(UserBatch(Ragged.from_lists([history]), (text,)), 10)

    timed = _timed(answer, requests)
    judged = evaluate(recommender, split, ks=(10,), metrics=("ndcg",)).metrics if judge else {}
    state = sum(value.nbytes for value in network.state_dict().values())
    encoder = sum(parameter.nbytes for parameter in eager.encoder.model.parameters())
    return {**judged, **timed, "size_mib": (state + encoder) / 2**20}


def _rung_row(name: str, backend: str, requests: Sequence[Any], folder: Path, judge: bool) -> dict[str, Any]:
    from lanner.artifacts.ladder import read_ladder
    from lanner.serving.backends import open_backend
    from lanner.serving.engine import Engine
    from lanner.serving.item_index import KeptIndexes

    ladder = read_ladder(BUNDLE)
    rung = ladder.rung(name)
    runtime = open_backend(backend, rung, ladder.reader, THREADS)
    runtime.warm_up()
    # One index for all rounds, kept beside the requests as a service keeps it beside the bundle: built anew, "auto"
    # chooses by times of its own and may give one process a scan, the next one cells; and it takes most of a round.
    index = KeptIndexes(folder, CANDIDATES).of(rung.form, lambda: None)
    engine = Engine(rung, runtime, candidates=CANDIDATES, index=index)
    reads = rung.form.profile_FD is not None
    timed = _timed(lambda history, text: engine.answer(history, 10, text if reads else None), requests)
    if not judge:
        return timed
    # The yardstick comes last: it is no part of what a service holds.
    from lanner.evaluation.protocol import evaluate

    ndcg = evaluate(runtime, _test_split()[1], ks=(10,), metrics=("ndcg",))["ndcg_at_10"]
    return {"ndcg_at_10": ndcg, **timed, "size_mib": rung.num_bytes / 2**20}


_TIMED = ("p50_ms", "p99_ms", "requests_per_s", "peak_mib")
"""What ``_timed`` finds."""


def _timed(answer: Callable[..., Any], requests: Sequence[Any]) -> dict[str, float]:
    """Milliseconds a request, one after another; the first WARM of them unmeasured."""
    for request in requests[:WARM]:
        answer(*request)
    seconds = []
    for request in requests[WARM:]:
        begun = time.perf_counter()
        answer(*request)
        seconds.append(time.perf_counter() - begun)
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"p50_ms": p50, "p99_ms": p99, "requests_per_s": len(seconds) / sum(seconds), "peak_mib": _peak_mib()}


def _encoders(ladder: Any) -> dict[str, Any]:
    """One text of 32 tokens, batch 1, in every variant and runtime; ``hugging-face`` is torch eager as published."""
    from lanner.models.language import LanguageEncoder
    from lanner.serving.backends import open_backend
    from lanner.serving.profile import median_ms

    language = LanguageEncoder(replace(LanguageEncoder().config, dtype="float32", device="cpu", cache=False))
    random, words = np.random.default_rng(SEED), ladder.reader.features.words
    text = _text_of_32(random, list(words), language)
    found: dict[str, Any] = {"hugging-face": {"torch": median_ms(lambda: language.encode([text]), 200)}}
    for name in ladder.names[:-1]:
        found[name] = {}
        for backend in BACKENDS:
            runtime = open_backend(backend, ladder.rung(name), ladder.reader, THREADS)
            found[name][backend] = median_ms(lambda runtime=runtime: runtime.encode([text]), 200)
            runtime.close()
    return found


def _full_catalogue(ladder: Any) -> dict[str, Any]:
    """Milliseconds of scoring the whole catalogue for one user's vector."""
    from lanner.serving.backends import open_backend
    from lanner.serving.profile import median_ms

    found: dict[str, Any] = {}
    for name in ladder.names:
        rung = ladder.rung(name)
        user_1D = np.random.default_rng(SEED).normal(size=(1, rung.form.dimensions)).astype(np.float32)
        found[name] = {}
        for backend in BACKENDS:
            runtime = open_backend(backend, rung, None, THREADS)
            found[name][backend] = median_ms(lambda r=runtime, u=user_1D: r.score_vectors(u), 200)
            runtime.close()
    return found


def _stages(ladder: Any, histories: Any, text: str) -> dict[str, dict[str, float]]:
    """Median milliseconds by stage of each variant, texts read by OpenVINO."""
    from lanner.serving.profile import profile_ladder

    found = profile_ladder(ladder, (), "openvino", histories, REQUESTS, text, THREADS)
    return {name: {one.stage: one.p50_ms for one in times} for name, times in found.items()}


def _neurons(ladder: Any, name: str) -> int:
    head = ladder.rung(name).form.head
    return 0 if head is None else len(head.out_H)


# --- one million items ---------------------------------------------------------------------------------------------


def _catalogues() -> dict[str, Any]:
    """The graph index at each size that is built in minutes, and how both kinds grow; each in a process of its own.

    10^7 items are estimated along the line through the last two sizes.
    """
    found: dict[str, Any] = {"hnsw": {}, "ivf-pq": {}}
    for kind, sizes in (("hnsw", (10_000, 100_000, MILLION)), ("ivf-pq", (10_000, 100_000, MILLION, 3 * MILLION))):
        for items in sizes:
            found[kind][str(items)] = _alone(items, kind)
        before, last = (found[kind][str(items)] for items in sizes[-2:])
        slope = (last["state_mib"] - before["state_mib"]) / (sizes[-1] - sizes[-2])
        tens = last["state_mib"] + slope * (10 * MILLION - sizes[-1])
        found[kind][str(10 * MILLION)] = {"state_mib": tens, "estimated": True}
    return found


def _alone(items: int, kind: str) -> dict[str, Any]:
    row = _own_process("--items", str(items), "--kind", kind)
    print(kind, items, json.dumps(row), flush=True)
    return row


def clustered_catalogue(items: int, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Item vectors ``[items, 64]`` and the share of the interactions that each item has.

    Popularity is gowalla's, its ranks stretched to the number of items; a popular item's vector is longer, as learned
    ones are.
    """
    degrees = np.sort(_gowalla_degrees())[::-1]
    ranks = np.linspace(0, len(degrees) - 1, items)
    popularity = np.interp(ranks, np.arange(len(degrees)), degrees)[random.permutation(items)]
    clusters = max(16, min(CLUSTERS, items // 50))
    centres = random.normal(size=(clusters, DIMENSIONS)).astype(np.float32)
    member = random.choice(clusters, items, p=(weights := random.pareto(1.5, clusters) + 1) / weights.sum())
    vectors = centres[member] + 0.5 * random.normal(size=(items, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= (1 + 0.15 * np.log1p(popularity))[:, None].astype(np.float32)
    return vectors.astype(np.float32), popularity / popularity.sum()


def _gowalla_degrees() -> NDArray[np.int64]:
    from lanner.data.sources import load

    dataset = load(Path("recipes") / "gowalla-lightgcn.toml")
    return np.bincount(dataset.interactions.item, minlength=dataset.num_items)


def _histories(member_share: NDArray[np.float64], vectors: NDArray[np.float32], random: Any, number: int) -> Any:
    """Histories of 50: half by popularity, half near one of those, as tastes are."""
    cumulated = np.cumsum(member_share)
    histories = []
    for _ in range(number):
        popular = np.searchsorted(cumulated, random.random(HISTORY // 2))
        pool = np.searchsorted(cumulated, random.random(2000))
        near = pool[np.argsort(-(vectors[pool] @ vectors[popular[0]]))[: HISTORY - HISTORY // 2]]
        histories.append(np.unique(np.minimum(np.concatenate([popular, near]), len(vectors) - 1)))
    return histories


def _measure_catalogue(items: int, kind: str) -> dict[str, Any]:
    """Build, save, load memory-mapped, and serve; queries are means of real-looking histories, as users are."""
    from lanner.artifacts.ladder import Rung
    from lanner.models.request_form import Int8Rows, RequestForm, RequestHead
    from lanner.serving.engine import Engine
    from lanner.serving.item_index import indexed_vectors
    from lanner.serving.retrieval import RetrievalConfig, build_index, load_index

    random = np.random.default_rng(SEED)
    vectors, share = clustered_catalogue(items, random)
    histories = _histories(share, vectors, random, WARM + REQUESTS + 300)
    half = 0.1 * random.normal(size=(items, HIDDEN)).astype(np.float32)
    user = random.normal(size=(DIMENSIONS, HIDDEN)).astype(np.float32) / DIMENSIONS**0.5
    head = RequestHead(user, np.zeros(HIDDEN, np.float32), half, 0.05 * random.normal(size=HIDDEN).astype(np.float32))
    plain = RequestForm(vectors, vectors, 0.05 * np.log1p(share * items).astype(np.float32), (DIMENSIONS,), head)
    targets = indexed_vectors(plain)
    queries = np.stack([np.append(vectors[history].mean(axis=0), 1) for history in histories[-300:]])
    judged = queries[100:].astype(np.float32)
    exact = _exact_top(targets, judged)
    begun = time.perf_counter()
    index = build_index(targets, RetrievalConfig(kind, 0.995), queries[:100], k=10, retrieved=CANDIDATES)
    on_sample = index.measured.recall
    build_seconds = time.perf_counter() - begun
    small = {name: Int8Rows.of(table) for name, table in (("source", vectors), ("head.item", half))}
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        for name, rows in small.items():
            np.save(Path(folder) / f"{name}.codes.npy", rows.codes)
            np.save(Path(folder) / f"{name}.scale.npy", rows.scale)
        np.save(Path(folder) / "bias.npy", plain.bias_I)
        bias = plain.bias_I
        del index, plain, vectors, half, targets, small
        begun = time.perf_counter()
        index = load_index(Path(folder) / "index")
        source, item_half = (
            Int8Rows(*(np.load(Path(folder) / f"{name}.{part}.npy", mmap_mode="r") for part in ("codes", "scale")))
            for name in ("source", "head.item")
        )
        load_seconds = time.perf_counter() - begun
        # The targets are in the index alone; the form's own are never read, so any table of that shape will do.
        form = RequestForm(source, source, bias, (DIMENSIONS,), replace(head, item_IH=item_half))
        engine = Engine(Rung("int8", form), None, candidates=CANDIDATES, index=index)
        found = index.search(judged, CANDIDATES)[0]
        asked = [(one,) for one in histories[:-300]]
        vectors_1D = [
            (np.append(engine.aggregate(engine.gather(engine.known(one))), np.float32(1))[None],)
            for one in histories[:-300]
        ]
        bare, width = _bare_search(index), index.snapshot.base.candidates.index.d
        padded_1D = [(np.pad(one, ((0, 0), (0, width - one.shape[1]))),) for (one,) in vectors_1D]
        request = _timed(lambda history: engine.answer(history, 10), asked)
        row = {
            "request": request,
            "bare_faiss": _timed(bare, padded_1D),
            "request_without_head": _timed(lambda history: _retrieved(engine, history), asked),
        }
    return {
        **row,
        "recall_at_10": float(
            np.mean([len(np.intersect1d(a, b[:10])) / 10 for a, b in zip(exact, found, strict=True)])
        ),
        "recall_on_tuning_sample": on_sample,
        "effort": index.snapshot.effort,
        "state_mib": engine.state_bytes / 2**20,
        "index_mib": index.memory_bytes / 2**20,
        "load_seconds": load_seconds,
        "build_seconds": build_seconds,
    }


def _retrieved(engine: Any, history: NDArray[np.int64]) -> None:
    met = engine.known(history)
    mean_D = engine.aggregate(engine.gather(met))
    engine.retrieve(engine.fuse(mean_D, engine.encode(None, None, len(met))), 10, deny=met)


def _bare_search(index: Any) -> Callable[[NDArray[np.float32]], Any]:
    """FAISS alone: the same structure, the same effort, as many candidates."""
    import faiss

    structure, effort = index.snapshot.base.candidates.index, index.snapshot.effort
    if index.kind == "hnsw":
        settings = faiss.SearchParametersHNSW(efSearch=max(effort, CANDIDATES))
    else:
        settings = faiss.IVFSearchParameters(nprobe=effort)
    return lambda query: structure.search(query, CANDIDATES, params=settings)


def _exact_top(targets: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int32]:
    """The ten best rows of each query by a full scan."""
    from lanner.data.ranking import top_k

    return np.concatenate([top_k(block @ targets.T, 10)[0] for block in np.array_split(queries, 20)])


# --- the figures ---------------------------------------------------------------------------------------------------


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    if "ml-1m" in results:
        rows = results["ml-1m"]
        base = rows["baseline"]["torch"]
        candidates = [
            (row["p50_ms"], name, backend)
            for name in ("full", "int8", "pruned", "distilled")
            for backend, row in rows[name].items()
            if row["ndcg_relative_loss"] <= 0.005
        ]
        _, name, backend = min(candidates)
        best = rows[name][backend]
        int8 = {b: rows["int8"][b]["p50_ms"] / rows["full"][b]["p50_ms"] for b in BACKENDS[1:]}
        encoders = rows["encoder"]
        fastest = min((ms, f"{n}/{b}") for n, by in encoders.items() if n != "hugging-face" for b, ms in by.items())
        summary |= {
            "best_variant": f"{name}/{backend}",
            "best_latency_ratio": best["p50_ms"] / base["p50_ms"],
            "best_throughput_ratio": best["requests_per_s"] / base["requests_per_s"],
            "best_ndcg_relative_loss": best["ndcg_relative_loss"],
            "int8_latency_ratio": min(int8.values()),
            "int8_latency_ratio_by_backend": int8,
            "int8_ndcg_relative_loss": max(rows["int8"][b]["ndcg_relative_loss"] for b in BACKENDS[1:]),
            "pruned_parameter_share": _pruned_share(rows["pruning"]),
            "pruned_ndcg_relative_loss": max(row["ndcg_relative_loss"] for row in rows["pruned"].values()),
            "encoder_latency_ratio": fastest[0] / encoders["hugging-face"]["torch"],
            "encoder_fastest": fastest[1],
        }
    if "clustered-1m" in results:
        kinds = {kind: sizes[str(MILLION)] for kind, sizes in results["clustered-1m"].items()}
        kind = min(kinds, key=lambda one: kinds[one]["request"]["p99_ms"])
        million = kinds[kind]
        summary |= {
            "retrieval_kind": kind,
            "request_p99_over_bare_search": million["request"]["p99_ms"] / million["bare_faiss"]["p99_ms"],
            "retrieval_recall_at_10": million["recall_at_10"],
            "serving_state_mib_1m": million["state_mib"],
            "load_seconds_1m": million["load_seconds"],
        }
    return summary


def _pruned_share(pruning: dict[str, Any]) -> float:
    """Of the layers of the encoder; the vocabulary, which is trimmed besides, is not counted in its favour."""
    return float(pruning["encoder_layer_parameter_share_removed"])


def _peak_mib() -> float:
    """Of this process since it was started; ``ru_maxrss`` would count its parent's memory before that."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
