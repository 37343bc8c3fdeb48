"""How much faster and smaller the compressed variants are, and what they cost in accuracy.

``python -m benchmarks.compression`` writes ``compression.json`` as ``results[dataset][variant][backend]`` with
ndcg_at_10 (test), ndcg_relative_loss, p50_ms, p99_ms, requests_per_s, size_mib and peak_mib, and ``results.summary``.

ml-1m: the trained hybrid of the quality suite. One request is one user: a history from the dataset and a new text of 32
tokens, answered with the ten best items. *Baseline*: the model as fitted, in float32; for each request the published
language model encodes the text in torch eager and every item is scored. Variants are ranked by the production ranker;
the backend is the runtime that encodes the text (``numpy``: no text is encoded). ``encoder`` rows time the encoder
alone; ``encoder-steps`` holds size, texts a second, cosine to the teacher and validation ndcg of each variant's.
The gain of INT8 depends on the processor's instructions for it (VNNI): ``int8_on`` records them, and the ratio is not a
target. Processes of the same row differ by up to a third, so a row is measured in ROUNDS separate processes,
interleaved with all other rows. p50_ms, p99_ms, requests_per_s and peak_mib are medians over the rounds;
p50_ms_by_round keeps every one; ndcg is the first round's. peak_mib is a process's peak when its requests were done.

components: the same requests to the baseline and to the best variant, with each stage timed inside the request
(``_request_stages``), in ROUNDS processes each, interleaved; minutes, once ml-1m's bundles are there.

ml-1m-cold: the hybrid of the cold-items protocol, with its cold items added as new items, by their texts alone, encoded
once by the full encoder and once by a small one that was distilled on the other items' texts.

clustered-1m: 1,000,000 vectors of 64 dimensions (a mixture of Gaussians, lengths and request histories following the
popularity of gowalla's items; simulated, not learned) behind the ranker with an MLP head of 64 neurons over 500
candidates, compared with the bare FAISS search of the same index at the same search effort.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _record
from benchmarks._clustered import DIMENSIONS, HISTORY, clustered_catalogue, clustered_histories
from benchmarks._quality_settings import EVERY_EVENT, SETTINGS
from benchmarks._request_stages import stage_times

SEED = 1
THREADS = 2
WARM, REQUESTS = 60, 300
"""Warm-up requests, and measured requests; all are distinct, because texts are cached."""
ROUNDS = 5
CANDIDATES = 500
BUNDLE = Path("runs") / "compression" / "ml-1m"
COMPRESSED = BUNDLE.with_name("ml-1m-compressed")
DISTILLATION_SECONDS = 200.0
BACKENDS = ("torch", "onnxruntime", "openvino")
VARIANTS = ("full", "int8", "pruned", "distilled")
"""Variants that encode texts."""
MILLION, HIDDEN, EVALUATED = 1_000_000, 64, 200
SIZES = (100_000, MILLION, 3 * MILLION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        choices=("ml-1m", "components", "ml-1m-cold", "clustered-1m", "summary"),
        help="measure one part (or none), keep the other's figures",
    )
    parser.add_argument("--items", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--stages", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.items:
        print(json.dumps(_measure_catalogue(options.items)))
        return
    if options.row:
        print(json.dumps(_row(*options.row, evaluate=options.evaluate, stages=options.stages)))
        return
    results: dict[str, Any] = _earlier() if options.only else {}
    if options.only in (None, "ml-1m"):
        results["ml-1m"] = _measure_ml1m()
    if options.only in (None, "ml-1m-cold"):
        from benchmarks import _compression_cold

        results["ml-1m-cold"] = _compression_cold.measure(SEED, DISTILLATION_SECONDS)
    if options.only in (None, "clustered-1m"):
        results["clustered-1m"] = _catalogues()
    results["summary"] = _summary(results)
    if options.only in (None, "components"):
        results["components"] = _components(results["summary"]["best_variant"])
    settings = {
        "threads": THREADS,
        "requests": REQUESTS,
        "rounds": ROUNDS,
        "candidates": CANDIDATES,
        "history": HISTORY,
        "distillation_seconds": DISTILLATION_SECONDS,
        "dimensions": DIMENSIONS,
        "hidden": HIDDEN,
        "items": MILLION,
    }
    print(_record.record("compression", seed=SEED, settings=settings, results=results))
    from benchmarks._compression_plots import draw

    draw(results)


def _earlier() -> dict[str, Any]:
    """The recorded results; each part carries the commit at which it was measured."""
    path = _record.RESULTS / "compression.json"
    if not path.exists():
        return {}
    recorded: dict[str, Any] = json.loads(path.read_text())
    for name, part in recorded["results"].items():
        if name != "summary":
            part.setdefault("commit", recorded["commit"])
    return dict(recorded["results"])


# --- ml-1m ---------------------------------------------------------------------------------------------------------


def _measure_ml1m() -> dict[str, Any]:
    from lanner.artifacts.bundle import read_bundle

    if not COMPRESSED.exists():
        _build()
    bundle = read_bundle(COMPRESSED)
    requests = _requests(bundle.dataset, _test_split(bundle))
    rows: dict[str, Any] = {"commit": _record._commit(), "processor": bundle.report["processor"]}
    with _file_of(requests) as asked:
        rows |= _in_rounds(asked)
    whole = rows["baseline"]["torch"]["ndcg_at_10"]
    for name in ("baseline", *bundle.variants):
        for row in rows[name].values():
            row["ndcg_relative_loss"] = 1 - row["ndcg_at_10"] / whole
        print(name, json.dumps(rows[name]), flush=True)
    rows["encoder"] = _encoders(bundle, requests[0][1])
    rows["encoder-steps"] = _encoder_steps(bundle)
    rows["stages"] = _stages(bundle, requests[0][1])
    rows["report"] = bundle.report
    figures = bundle.variant("pruned").figures
    rows["pruning"] = {key: value for key, value in figures.items() if key.startswith("encoder_")}
    rows["pruning"] |= {"head_neurons": _neurons(bundle, "full"), "head_neurons_kept": _neurons(bundle, "pruned")}
    return rows


@contextmanager
def _file_of(requests: Sequence[Any]) -> Iterator[str]:
    """A file that the processes of the rows read."""
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "requests.json"
        asked.write_text(json.dumps([(history.tolist(), text) for history, text in requests]))
        yield str(asked)


def _components(best: str) -> dict[str, Any]:
    """Medians over the rounds of the stages of the baseline and of the best variant, and every round."""
    from lanner.artifacts.bundle import read_bundle

    if not COMPRESSED.exists():
        _build()
    bundle = read_bundle(COMPRESSED)
    found: dict[str, Any] = {"commit": _record._commit(), "threads": THREADS, "rounds": ROUNDS}
    rounds: dict[str, list[dict[str, float]]] = {"baseline/torch": [], best: []}
    with _file_of(_requests(bundle.dataset, _test_split(bundle))) as asked:
        for _ in range(ROUNDS):
            for row, done in rounds.items():
                done.append(_own_process("--row", *row.split("/"), asked, "--stages"))
    for column, (row, done) in zip(("unoptimised", "optimised"), rounds.items(), strict=True):
        found[column] = {"row": row}
        for part in done[0]:
            times = [one[part] for one in done]
            found[column] |= {part: float(np.median(times)), f"{part}_by_round": times}
        print(column, json.dumps(found[column]), flush=True)
    return found


def _in_rounds(asked: str) -> dict[str, dict[str, dict[str, Any]]]:
    """``[variant][backend]`` of the baseline and every variant: medians over ROUNDS interleaved processes each."""
    turns = [("baseline", "torch"), *((name, backend) for backend in BACKENDS for name in VARIANTS)]
    turns.append(("popularity", "numpy"))
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
    for number in range(ROUNDS):
        for turn in turns:
            evaluate = [] if number else ["--evaluate"]
            rounds[turn].append(_own_process("--row", *turn, asked, *evaluate))
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for (name, backend), found in rounds.items():
        medians = {key: float(np.median([one[key] for one in found])) for key in _TIMED}
        rows.setdefault(name, {})[backend] = {
            **found[0],
            **medians,
            "p50_ms_by_round": [one["p50_ms"] for one in found],
        }
    return rows


def _own_process(*arguments: str) -> dict[str, Any]:
    """The last line that this script prints for a single row."""
    command = [sys.executable, "-m", "benchmarks.compression", *arguments]
    written = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(written.splitlines()[-1]))


def _row(name: str, backend: str, path: str, evaluate: bool, stages: bool) -> dict[str, Any]:
    """Times and sizes of one row; ``evaluate``: also its ndcg; ``stages``: the times of a request's stages alone."""
    requests = [(np.array(history, np.int64), text) for history, text in json.loads(Path(path).read_text())]
    if name == "baseline":
        return _baseline(requests, evaluate, stages)
    return _variant(name, backend, requests, evaluate, stages)


def _test_split(bundle: Any) -> Any:
    from lanner.config import from_dict
    from lanner.registry import SPLITS

    config = from_dict(bundle.config)
    return SPLITS[config.split.name](bundle.dataset, config.split).test


def _ndcg(scorer: Any, bundle: Any) -> dict[str, float]:
    from lanner.evaluation.protocol import evaluate

    found = evaluate(scorer, _test_split(bundle), ks=(10,), metrics=("ndcg",))
    return {"ndcg_at_10": float(found["ndcg_at_10"])}


def _build() -> None:
    """The hybrid trained as in the quality suite, and its variants."""
    from lanner.cli.console import Stages
    from lanner.compress import compress
    from lanner.compression.encoder import EncoderRecipe
    from lanner.config import from_dict, to_dict
    from lanner.pipeline import run

    settings = json.loads(json.dumps(SETTINGS["ml-1m/random-80-20"].get("hybrid", {"feedback": EVERY_EVENT})))
    config = from_dict({**settings, "data": {"path": "recipes/ml-1m.toml"}, "model": "hybrid"})
    config = replace(config, split=replace(config.split, name="random", seed=SEED))
    BUNDLE.parent.mkdir(parents=True, exist_ok=True)
    if not BUNDLE.exists():
        run(from_dict(to_dict(config)), BUNDLE, Stages(), measure=False)
    recipe = EncoderRecipe(seconds=DISTILLATION_SECONDS)
    compress(BUNDLE, COMPRESSED, recipe=recipe, threads=THREADS, announce=Stages())


def _requests(dataset: Any, test: Any) -> list[tuple[NDArray[np.int32], str]]:
    """Histories of test users, and texts of 32 tokens: words of the catalogue's texts in new combinations."""
    from lanner.models.language import LanguageEncoder

    random, language = np.random.default_rng(SEED), LanguageEncoder()
    words = [word for text in dataset.item_catalogue.texts[:2000] for word in text.split() if word.isalpha()]
    chosen = random.permutation(len(test))[: WARM + REQUESTS]
    return [(np.unique(test.users.history[row]), _text_of_32(random, words, language)) for row in chosen]


def _text_of_32(random: np.random.Generator, words: list[str], language: Any) -> str:
    """The number of words that make 32 tokens including the special ones."""
    chosen = list(random.choice(words, 32))
    while len(language.token_ids([" ".join(chosen)])[0]) > 32:
        chosen.pop()
    return " ".join(chosen)


def _baseline(requests: Sequence[Any], evaluate: bool, stages: bool) -> dict[str, Any]:
    """The hybrid as fitted, in float32; the published encoder encodes each text in torch eager."""
    import torch

    from lanner.inference.ranker import Ranker
    from lanner.models.language import LanguageEncoder
    from lanner.pipeline import open_bundle

    torch.set_num_threads(THREADS)
    bundle = open_bundle(BUNDLE)
    recommender: Any = bundle.recommender
    model, read = recommender.scoring_model, recommender.text_features
    eager = LanguageEncoder(replace(recommender.encoder.config, dtype="float32", device="cpu", cache=False))

    class Eager:
        """A text encoder without a cache."""

        def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
            features_TF: NDArray[np.float32] = read.transform(texts, eager.encode)
            return features_TF

    ranker = Ranker(model, reader=Eager())
    if stages:
        return dict(stage_times(ranker, partial(_answer, ranker), requests, WARM))
    timed = _timed(partial(_answer, ranker), requests)
    state = sum(value.nbytes for value in recommender.state()[0].values())
    encoder = sum(parameter.nbytes for parameter in eager.model.parameters())
    return {**timed, "size_mib": (state + encoder) / 2**20, **(_ndcg(recommender, bundle) if evaluate else {})}


def _answer(ranker: Any, history: NDArray[np.int64], text: str) -> Any:
    from lanner.inference.ranker import Query

    return ranker.rank([Query(history, seen=history, profile=text)])


def _variant(name: str, backend: str, requests: Sequence[Any], evaluate: bool, stages: bool) -> dict[str, Any]:
    from lanner.artifacts.bundle import read_bundle
    from lanner.encoders import open_text_reader
    from lanner.inference.ranker import RankedScorer, Ranker

    bundle = read_bundle(COMPRESSED)
    variant, reader = bundle.variant(name), None
    if backend != "numpy":
        assert bundle.text_files is not None
        reader = open_text_reader(variant, bundle.text_files, backend, THREADS)
        reader.warm_up()
    ranker = Ranker(variant.model, candidates=CANDIDATES, reader=reader)
    if stages:
        return dict(stage_times(ranker, partial(_answer, ranker), requests, WARM))
    timed = _timed(partial(_answer, ranker), requests)
    if not evaluate:
        return timed
    # Quality comes last: the memory it needs must not count as the server's.
    scorer = RankedScorer(variant.model, None if reader is None else reader.features)
    return {**_ndcg(scorer, bundle), **timed, "size_mib": variant.num_bytes / 2**20}


_TIMED = ("p50_ms", "p99_ms", "requests_per_s", "peak_mib")
"""The results of ``_timed``."""


def _timed(answer: Callable[..., Any], requests: Sequence[Any]) -> dict[str, float]:
    """Milliseconds per request, sequentially; the first WARM of them are not measured."""
    for request in requests[:WARM]:
        answer(*request)
    seconds = []
    for request in requests[WARM:]:
        begun = time.perf_counter()
        answer(*request)
        seconds.append(time.perf_counter() - begun)
    p50, p99 = np.percentile(seconds, (50, 99)) * 1e3
    return {"p50_ms": p50, "p99_ms": p99, "requests_per_s": len(seconds) / sum(seconds), "peak_mib": _peak_mib()}


def _encoders(bundle: Any, text: str) -> dict[str, Any]:
    """One text of 32 tokens, batch 1, in every variant and runtime; ``hugging-face`` is torch eager as published."""
    from lanner.compress import median_ms
    from lanner.encoders import open_text_reader
    from lanner.models.language import LanguageEncoder

    language = LanguageEncoder(replace(LanguageEncoder().config, dtype="float32", device="cpu", cache=False))
    found: dict[str, Any] = {"hugging-face": {"torch": median_ms(lambda: language.encode([text]), 200)}}
    for name in VARIANTS:
        found[name] = {}
        for backend in BACKENDS:
            reader = open_text_reader(bundle.variant(name), bundle.text_files, backend, THREADS)
            found[name][backend] = median_ms(lambda reader=reader: reader.encode([text]), 200)
            reader.close()
    return found


def _encoder_steps(bundle: Any) -> dict[str, Any]:
    """Encoder figures measured when the variants were built."""
    shown = ("encoder_mib", "ndcg_at_10", "encode")
    return {name: {key: bundle.variant(name).figures[key] for key in shown} for name in VARIANTS}


def _stages(bundle: Any, text: str) -> dict[str, dict[str, float]]:
    """Median milliseconds by stage of each variant, texts encoded by the fastest runtime."""
    from lanner.serving.profile import profile

    found = profile(bundle, requests=REQUESTS, text=text, threads=THREADS)
    return {name: {one.stage: one.p50_ms for one in times} for name, times in found.items()}


def _neurons(bundle: Any, name: str) -> int:
    head = bundle.variant(name).model.head
    return 0 if head is None else len(head.out_H)


# --- one million items ---------------------------------------------------------------------------------------------


def _catalogues() -> dict[str, Any]:
    """Every size, each in a separate process. 10^7 items are extrapolated linearly from the last two."""
    found: dict[str, Any] = {}
    for items in SIZES:
        found[str(items)] = _own_process("--items", str(items))
        print(items, json.dumps(found[str(items)]), flush=True)
    before, last = (found[str(items)]["state_mib"] for items in SIZES[-2:])
    slope = (last - before) / (SIZES[-1] - SIZES[-2])
    found[str(10 * MILLION)] = {"state_mib": last + slope * (10 * MILLION - SIZES[-1]), "estimated": True}
    return found


def _measure_catalogue(items: int) -> dict[str, Any]:
    """Build, save, load memory-mapped, and rank; queries are means of realistic histories, like users."""
    from safetensors.numpy import save

    from lanner.compression.steps import quantised
    from lanner.files import digest, mapped_arrays
    from lanner.inference.heads import Head
    from lanner.inference.ranker import Query, Ranker
    from lanner.inference.retrieval import VectorIndex, build_index
    from lanner.inference.scoring_model import ScoringModel

    random = np.random.default_rng(SEED)
    vectors, share = clustered_catalogue(items, random)
    histories = clustered_histories(vectors, share, random, WARM + REQUESTS + 100 + EVALUATED)
    half = 0.1 * random.normal(size=(items, HIDDEN)).astype(np.float32)
    user = random.normal(size=(DIMENSIONS, HIDDEN)).astype(np.float32) / DIMENSIONS**0.5
    head = Head(user, np.zeros(HIDDEN, np.float32), half, 0.05 * random.normal(size=HIDDEN).astype(np.float32))
    popularity = (share * items).astype(np.float32)
    bias = (0.05 * np.log1p(popularity)).astype(np.float32)
    model = ScoringModel(vectors, vectors, bias, popularity, (DIMENSIONS,), head=head)
    targets = np.hstack([vectors, bias[:, None]])
    queries = np.stack([np.append(vectors[rows].mean(axis=0), 1) for rows in histories]).astype(np.float32)
    evaluated, sample = queries[-EVALUATED:], queries[-EVALUATED - 100 : -EVALUATED]
    asked = histories[: WARM + REQUESTS]
    exact = _exact_top(targets, evaluated)
    begun = time.perf_counter()
    index = build_index(targets, sample_queries=sample, retrieved=CANDIDATES)
    build_seconds = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        small, file = quantised(model), Path(folder) / "scoring.safetensors"
        file.write_bytes(save(small.arrays()))
        checksum, facts = digest(file.read_bytes()), small.facts
        del index, model, vectors, half, targets, small
        begun = time.perf_counter()
        index = VectorIndex.load(Path(folder) / "index")
        ranker = Ranker(
            ScoringModel.from_arrays(mapped_arrays(file, checksum), facts), index=index, candidates=CANDIDATES
        )
        load_seconds = time.perf_counter() - begun
        found = index.search(evaluated, CANDIDATES)[0]
        row = {
            "kind": index.kind,
            "request": _timed(lambda rows: ranker.rank([Query(rows, seen=rows)]), [(rows,) for rows in asked]),
            "bare_faiss": _timed(_bare_search(index), [(query[None],) for query in queries[: len(asked)]]),
        }
        hits = [len(np.intersect1d(wanted, rows[:10])) / 10 for wanted, rows in zip(exact, found, strict=True)]
        return {
            **row,
            "recall_at_10": float(np.mean(hits)),
            "recall_on_tuning_sample": index.recall,
            "effort": index.effort._asdict(),
            "state_mib": ranker.memory_bytes / 2**20,
            "index_mib": index.memory_bytes / 2**20,
            "load_seconds": load_seconds,
            "build_seconds": build_seconds,
        }


def _bare_search(index: Any) -> Callable[[NDArray[np.float32]], Any]:
    """FAISS alone: the same index structure, search effort and number of candidates."""
    from lanner.inference.retrieval import _pad_to_even, _settings

    effort = index.effort
    settings = _settings(effort.probed, max(1.0, effort.refined / effort.retrieved), None)
    return lambda query: index._faiss_index.search(_pad_to_even(query), effort.retrieved, params=settings)


def _exact_top(targets: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int32]:
    """The ten best rows of each query by a full scan."""
    from lanner.data.ranking import top_k

    return np.concatenate([top_k(block @ targets.T, 10)[0] for block in np.array_split(queries, 20)])


# --- the figures ---------------------------------------------------------------------------------------------------


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    if "ml-1m" in results:
        rows = results["ml-1m"]
        base, encoders = rows["baseline"]["torch"], rows["encoder"]
        candidates = [
            (row["p50_ms"], name, backend)
            for name in VARIANTS
            for backend, row in rows[name].items()
            if row["ndcg_relative_loss"] <= 0.005
        ]
        _, name, backend = min(candidates)
        best = rows[name][backend]
        # Torch encodes in float32 in every variant.
        int8 = {b: rows["int8"][b]["p50_ms"] / rows["full"][b]["p50_ms"] for b in BACKENDS[1:]}
        fastest = min((ms, f"{n}/{b}") for n in VARIANTS for b, ms in encoders[n].items())
        summary |= {
            "best_variant": f"{name}/{backend}",
            "best_latency_ratio": best["p50_ms"] / base["p50_ms"],
            "best_latency_ratio_by_round": [
                one / other for one, other in zip(best["p50_ms_by_round"], base["p50_ms_by_round"], strict=True)
            ],
            "best_throughput_ratio": best["requests_per_s"] / base["requests_per_s"],
            "best_ndcg_relative_loss": best["ndcg_relative_loss"],
            "int8_on": rows["processor"],
            "int8_latency_ratio": min(int8.values()),
            "int8_latency_ratio_by_backend": int8,
            "int8_ndcg_relative_loss": max(rows["int8"][b]["ndcg_relative_loss"] for b in BACKENDS[1:]),
            "pruned_parameter_share": float(rows["pruning"]["encoder_layer_parameter_share_removed"]),
            "pruned_ndcg_relative_loss": max(row["ndcg_relative_loss"] for row in rows["pruned"].values()),
            "encoder_latency_ratio": fastest[0] / encoders["hugging-face"]["torch"],
            "encoder_fastest": fastest[1],
        }
    if "clustered-1m" in results:
        million = results["clustered-1m"][str(MILLION)]
        summary |= {
            "retrieval_kind": million["kind"],
            "request_p99_over_bare_search": million["request"]["p99_ms"] / million["bare_faiss"]["p99_ms"],
            "retrieval_recall_at_10": million["recall_at_10"],
            "serving_state_mib_1m": million["state_mib"],
            "load_seconds_1m": million["load_seconds"],
        }
    return summary


def _peak_mib() -> float:
    """Peak memory of this process since its start; ``ru_maxrss`` would include its parent's memory before that."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
