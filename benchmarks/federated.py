"""Federated learning on ml-1m: what it costs in quality that the server sees no user's data.

``python -m benchmarks.federated`` writes ``federated.json``. The users are divided among 100 clients, 80/20 of each
user's ratings; all items that a user has not seen are ranked. Rows, each with ndcg@10 and recall@10 (test), bytes that
all clients send (*bytes_up*) and receive (*bytes_down*), rounds, and CPU seconds:

- ``ease``, ``graph-filter``: from sums by secure aggregation, that of the users of each item and that of a matrix;
  *difference* is the largest one of scores from those of ``lanner.models`` fitted on pooled events, in units of the
  largest score. The graph filter is compared without pruning, as either of two equal weights may be pruned, and with
  so many power iterations that its singular vectors are exact, too: of its code in double precision, and, as
  *difference_float32*, in single precision, which it has in the product.
- ``averaged``: item vectors by plain federated averaging; ``averaged-8-bit``: of half the dimensions, in 8 bits.
- ``hybrid``: the weighted sum of EASE and the vectors of ``averaged-8-bit``; bytes and rounds are those of both.
- ``ease-epsilon-E``: EASE from noisy sums; each user is protected by (E, 1e-5)-differential privacy; ``ease-by-user``:
  from the same sums without noise.
- ``processes``: the sums of ``ease`` by a server and three client processes over sockets, and their seconds.
- ``latency``: milliseconds per request of EASE from sums and of EASE fitted on pooled events, asked in turn.

Settings, the weight of the hybrid included, were chosen on validation of the split with seed 2. ``centralised`` is the
hybrid fitted on pooled events, as recorded by the quality suite on the same split.
Rows are kept in ``runs/federated``: ``--kept`` reuses those, ``--only ROW`` measures the rows it names and reuses the
others. The first row that needs a sum spends the time that it takes.
"""

import argparse
import json
import multiprocessing as mp
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import _record
from benchmarks._datasets import named
from benchmarks._quality_settings import EVERY_EVENT, SETTINGS
from lanner.config import from_dict
from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.evaluation.protocol import evaluate
from lanner.federated.averaging import AveragingConfig, Client, scoring_model
from lanner.federated.averaging import Server as Averager
from lanner.federated.privacy import BY_USER, Privacy
from lanner.federated.secure_sum import FixedPoint, Masker, total_of
from lanner.federated.statistics import Layout, Statistics, counts_form, ease, graph_filter, private, users_of_items
from lanner.federated.wire import Server, join
from lanner.inference.ranker import Query, Ranker
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.sparse import history_matrix
from lanner.models.ease import EASE, EASEConfig
from lanner.models.graph_filter import GraphFilter, GraphFilterConfig
from lanner.models.linear import training_matrix
from lanner.registry import SPLITS

CLIENTS, PROCESSES = 100, 3
EPSILONS = (1.0, 4.0, 8.0)
RIDGE, PRIVATE_RIDGE = 800.0, 20.0
"""For sums by event, as in the quality suite's EASE, and by user, where each history counts as one."""
FILTER = GraphFilterConfig(**SETTINGS["ml-1m/random-80-20"]["graph-filter"]["graph_filter"])
CONVERGED = 150
"""Power iterations after which the singular vectors of the graph filter no longer change."""
REQUESTS, WARM = 2000, 50
"""Of the row ``latency``; the first WARM are not measured."""
AVERAGING = AveragingConfig()
COMPRESSED = AveragingConfig(dimensions=32, rounds=53, server_rate=0.05, compressed=True)
"""With EASE, as many rounds as a quarter of the bytes of AVERAGING allows."""
WEIGHT = 0.8
"""Of the averaged vectors in the hybrid."""
KEY = b"benchmark"
CACHE = Path("runs") / "federated"
CENTRALISED = ("ml-1m", "random-80-20", "hybrid")
"""Dataset, protocol and row of ``quality_foundation.json``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the split; other seeds print and write nothing")
    parser.add_argument("--only", action="append", default=[], choices=ROWS, metavar="ROW")
    parser.add_argument("--kept", action="store_true", help="do not measure rows anew that lie in runs/federated")
    arguments = parser.parse_args()
    study, folder = Study(arguments.seed), CACHE / str(arguments.seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only or ROWS:
        if not (arguments.kept and (folder / f"{name}.json").exists()):
            begun = time.process_time()
            row = ROWS[name](study)
            row |= {"cpu_seconds": round(time.process_time() - begun, 1), "commit": _record._commit()}
            print(name, {key: value for key, value in row.items() if key != "ci95"}, flush=True)
            (folder / f"{name}.json").write_text(json.dumps(row))
    if missing := [name for name in ROWS if not (folder / f"{name}.json").exists()]:
        parser.exit(1, f"not measured yet: {', '.join(missing)}; run without --only, with --kept\n")
    rows = {name: json.loads((folder / f"{name}.json").read_text()) for name in ROWS}
    results = {"rows": rows, "centralised": centralised(), "summary": summary(rows, centralised())}
    print(results["summary"])
    if arguments.seed == 1:
        averaging = {"averaged": vars(AVERAGING), "averaged-8-bit": vars(COMPRESSED)}
        settings = {"clients": CLIENTS, "averaging": averaging, "ridge": RIDGE, "graph_filter": vars(FILTER)}
        print(_record.record("federated", seed=1, settings=settings, results=results))


def summary(rows: dict[str, Any], reference: dict[str, Any] | None) -> dict[str, float | None]:
    """The figures in a few words. bytes_ratio: of the hybrid, sent and received, to plain averaging."""
    names = ("hybrid", "ease", "averaged-8-bit")
    plain, best = rows["averaged"], reference["ndcg_at_10"] if reference else None
    size = {name: rows[name]["bytes_up"] + rows[name]["bytes_down"] for name in (*names, "averaged")}
    hybrid, ease_, compressed = (size[name] / size["averaged"] for name in names)
    return {
        "closed_form_difference": max(rows[name]["difference"] for name in ("ease", "graph-filter")),
        "hybrid_of_centralised": rows["hybrid"]["ndcg_at_10"] / best if best else None,
        "hybrid_over_dense_ndcg": rows["hybrid"]["ndcg_at_10"] / plain["ndcg_at_10"],
        "bytes_ratio": hybrid,
        "ease_of_centralised": rows["ease"]["ndcg_at_10"] / best if best else None,
        "ease_bytes_ratio": ease_,
        "compressed_bytes_ratio": compressed,
        "compressed_over_dense_ndcg": rows["averaged-8-bit"]["ndcg_at_10"] / plain["ndcg_at_10"],
        "ndcg_at_eps_8": rows["ease-epsilon-8"]["ndcg_at_10"],
        "latency_ratio": rows["latency"]["ratio"],
    }


def centralised() -> dict[str, Any] | None:
    """ndcg@10 of the hybrid fitted on pooled events, with its file and commit; None if it was not measured."""
    path = _record.RESULTS / "quality_foundation.json"
    if not path.exists():
        return None
    read = json.loads(path.read_text())
    dataset, protocol, name = CENTRALISED
    row = read["results"].get(dataset, {}).get(protocol, {}).get(name)
    if row is None:
        return None
    return {"ndcg_at_10": row["ndcg_at_10"], "file": path.name, "commit": row.get("commit", read["commit"])}


@dataclass(frozen=True)
class Traffic:
    """Bytes of all clients together."""

    bytes_up: int = 0
    bytes_down: int = 0
    rounds: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


class Study:
    """The data and what several rows need."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @cached_property
    def split(self) -> Any:
        config = from_dict({"feedback": EVERY_EVENT, "split": {"name": "random", "seed": self.seed}})
        data = named("ml-1m")
        data = Feedback.decide(data.interactions, config.feedback).apply(data)
        return SPLITS["random"](data, config.split)

    @cached_property
    def by_event(self) -> tuple[Statistics, Traffic]:
        return summed_by_event(dealt(self.split.refit, CLIENTS))

    @cached_property
    def by_user(self) -> tuple[Statistics, Traffic]:
        layout = Layout.by_user(self.split.refit.num_items)
        parts = dealt(self.split.refit, CLIENTS)
        total, traffic = summed(lambda place: layout.values(Statistics.of(parts[place], "user")), layout.form, CLIENTS)
        return layout.statistics(total), traffic

    @cached_property
    def counts(self) -> tuple[NDArray[np.float64], Traffic]:
        return counted(dealt(self.split.refit, CLIENTS))

    @cache  # noqa: B019 one study per process
    def averaged(self, config: AveragingConfig) -> tuple[NDArray[np.float32], Traffic]:
        """Item vectors of all events."""
        return averaged_over(dealt(self.split.refit, CLIENTS), config)


def measured(study: Study, model: Any, traffic: Traffic, **more: Any) -> dict[str, Any]:
    """A row."""
    report = evaluate(model, study.split.test, ks=(10,), metrics=("ndcg", "recall"))
    row = {**report.metrics, "ci95": {key: list(map(float, one)) for key, one in report.ci95.items()}}
    return {**row, **vars(traffic), **more}


def row_of_ease(study: Study) -> dict[str, Any]:
    statistics, traffic = study.by_event
    model = ease(statistics, RIDGE)
    pooled = EASE(EASEConfig(regularisation=RIDGE)).fit(study.split.refit).export()
    return measured(study, model, traffic, difference=difference(study, model, pooled))


def row_of_graph_filter(study: Study) -> dict[str, Any]:
    (counts_I, first), (statistics, second) = study.counts, study.by_user
    exact = replace(FILTER, neighbours=len(counts_I), power_iterations=CONVERGED)
    pooled, unpruned = GraphFilter(exact).fit(study.split.refit), graph_filter(statistics, counts_I, exact)
    apart = {
        "difference": difference(study, unpruned, in_double_precision(pooled)),
        "difference_float32": difference(study, unpruned, pooled.export()),
    }
    return measured(study, graph_filter(statistics, counts_I, FILTER), first + second, **apart)


def in_double_precision(model: GraphFilter) -> ScoringModel:
    """The model with the singular vectors that its code finds in double precision."""
    matrix = training_matrix(model.dataset).astype(np.float64)
    degree_U, degree_I = (np.maximum(np.asarray(matrix.sum(axis=axis)).ravel(), 1) for axis in (1, 0))
    source_ID, target_ID = model._low_pass(matrix, 1 / degree_U, degree_I)
    return replace(model.export(), source_ID=source_ID.astype(np.float32), target_ID=target_ID.astype(np.float32))


def row_of_averaged(study: Study, config: AveragingConfig) -> dict[str, Any]:
    vectors, traffic = study.averaged(config)
    return measured(study, scoring_model(vectors, study.counts[0]), traffic)


def row_of_hybrid(study: Study) -> dict[str, Any]:
    (statistics, of_sums), (vectors, of_rounds) = study.by_event, study.averaged(COMPRESSED)
    learned = scoring_model(vectors, statistics.gram_II.diagonal())
    joined = Joined(ease(statistics, RIDGE), learned, WEIGHT)
    return measured(study, joined, of_sums + of_rounds, weights={"ease": 1.0, "averaged-8-bit": WEIGHT})


def row_of_private(study: Study, epsilon: float | None) -> dict[str, Any]:
    statistics, traffic = study.by_user
    if epsilon is None:
        return measured(study, ease(statistics, PRIVATE_RIDGE), traffic)
    layout, privacy, random = (
        Layout.by_user(len(statistics.gram_II)),
        Privacy(epsilon),
        np.random.default_rng(study.seed),
    )
    total = layout.values(statistics)
    for _ in range(CLIENTS):
        noise = BY_USER.noise(privacy, CLIENTS, random, len(total))
        total += layout.form.decoded(layout.form.encoded(noise))  # as if each client had added its own
    return measured(study, ease(private(layout.statistics(total), BY_USER, privacy), PRIVATE_RIDGE), traffic)


def row_of_processes(study: Study) -> dict[str, Any]:
    """Seconds of both sums across processes, and their deviation from the pooled sum."""
    parts, whole = dealt(study.split.refit, PROCESSES), Statistics.of(study.split.refit, "event")
    server, found = Server(("127.0.0.1", 0), KEY), {}

    def serve() -> None:
        counts_I, _ = server.total(PROCESSES, _counts_form(parts))
        layout = Layout.by_event(counts_I)
        found["sum"] = layout.statistics(server.total(PROCESSES, layout.form)[0])

    thread = threading.Thread(target=serve)
    begun = time.perf_counter()
    thread.start()
    clients = [
        mp.get_context("spawn").Process(
            target=_take_part, args=(server.address, number, part, _most_users(parts), _counts_form(parts))
        )
        for number, part in enumerate(parts)
    ]
    for one in clients:
        one.start()
    for waited in [*clients, thread]:
        waited.join()
    seconds = time.perf_counter() - begun
    server.close()
    exact = float(np.abs(found["sum"].gram_II - whole.gram_II).max())
    traffic = {"bytes_up": server.bytes_received, "bytes_down": server.bytes_sent}
    return {"seconds": round(seconds, 2), "largest_difference": exact, "clients": PROCESSES, **traffic}


def row_of_latency(study: Study) -> dict[str, Any]:
    pooled = EASE(EASEConfig(regularisation=RIDGE)).fit(study.split.refit).export()
    rankers = {"federated": Ranker(ease(study.by_event[0], RIDGE)), "centralised": Ranker(pooled)}
    seconds: dict[str, list[float]] = {name: [] for name in rankers}
    histories = study.split.test.users.history
    for number in range(WARM + REQUESTS):
        rows = histories[number % len(histories)].astype(np.int64)
        for name in sorted(rankers, reverse=number % 2 == 0):  # each is first in half of the requests
            begun = time.perf_counter()
            rankers[name].rank([Query(rows, seen=rows)])
            seconds[name].append(time.perf_counter() - begun)
    p50 = {f"{name}_p50_ms": 1e3 * float(np.median(some[WARM:])) for name, some in seconds.items()}
    return {**p50, "ratio": p50["federated_p50_ms"] / p50["centralised_p50_ms"], "requests": REQUESTS}


ROWS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "ease": row_of_ease,
    "graph-filter": row_of_graph_filter,
    "averaged": partial(row_of_averaged, config=AVERAGING),
    "averaged-8-bit": partial(row_of_averaged, config=COMPRESSED),
    "hybrid": row_of_hybrid,
    **{f"ease-epsilon-{epsilon:g}": partial(row_of_private, epsilon=epsilon) for epsilon in EPSILONS},
    "ease-by-user": partial(row_of_private, epsilon=None),
    "processes": row_of_processes,
    "latency": row_of_latency,
}


def dealt(dataset: Dataset, clients: int) -> list[Dataset]:
    """The dataset's users, each assigned to one of ``clients``."""
    events = dataset.interactions
    return [
        dataset.with_interactions(events.take(np.flatnonzero(events.user % clients == part))) for part in range(clients)
    ]


def summed(
    values: Callable[[int], NDArray[np.float64]], form: FixedPoint, clients: int
) -> tuple[NDArray[np.float64], Traffic]:
    """The sum of the ``values`` of each client by number, masked and packed as over sockets, and its traffic."""
    maskers = [Masker(number) for number in range(clients)]
    keys = {one.number: one.public_key for one in maskers}
    total, sent = None, 0
    for masker in maskers:
        message = form.packed(masker.masked(form.encoded(values(masker.number)), keys, 1))
        words = form.unpacked(message)
        total, sent = words if total is None else total_of([total, words]), sent + len(message)
    assert total is not None
    return form.decoded(total), Traffic(sent, clients * form.num_bytes, 1)


def counted(parts: list[Dataset]) -> tuple[NDArray[np.float64], Traffic]:
    """The number of users of each item."""
    most = _most_users(parts)
    return summed(lambda place: users_of_items(parts[place], most), _counts_form(parts), len(parts))


def summed_by_event(parts: list[Dataset]) -> tuple[Statistics, Traffic]:
    """The Gram matrix: the counts, and then all other entries."""
    counts_I, first = counted(parts)
    layout = Layout.by_event(counts_I)
    total, second = summed(lambda place: layout.values(Statistics.of(parts[place], "event")), layout.form, len(parts))
    return layout.statistics(total), first + second


def _most_users(parts: list[Dataset]) -> int:
    return -(-parts[0].num_users // len(parts))


def _counts_form(parts: list[Dataset]) -> FixedPoint:
    return counts_form(parts[0].num_items, len(parts), _most_users(parts))


def averaged_over(parts: list[Dataset], config: AveragingConfig) -> tuple[NDArray[np.float32], Traffic]:
    """Item vectors after all rounds."""
    members = [
        Client(history_matrix(part.histories, part.num_items), config, number) for number, part in enumerate(parts)
    ]
    server, traffic = Averager(parts[0].num_items, config), Traffic()
    for number in range(1, config.rounds + 1):
        changes = [one.train(server.vectors_ID) for one in members]
        sent = server.take(changes).bytes
        traffic += Traffic(sum(one.bytes for one in changes), len(parts) * sent, 1)
        print(f"\rround {number} of {config.rounds}", end="", flush=True)
    print()
    return server.vectors_ID, traffic


class Joined:
    """The sum of two models' scores, each in units of its spread over a user's items, the second with a weight."""

    def __init__(self, first: ScoringModel, second: ScoringModel, weight: float) -> None:
        self._parts = [(first, 1.0), (second, weight)]

    def score(self, users: Any) -> NDArray[np.float32]:
        total = np.float32(0)
        for model, weight in self._parts:
            scores = model.score(users)
            spread = np.maximum(scores.std(axis=1, keepdims=True), 1e-12)
            total = total + np.float32(weight) * scores / spread
        return np.asarray(total, np.float32)


def difference(study: Study, model: ScoringModel, pooled: ScoringModel) -> float:
    """The largest difference of scores for 500 test users, in units of the largest score."""
    users = study.split.test.users.take(np.arange(min(500, len(study.split.test))))
    theirs = pooled.score(users)
    return float(np.abs(model.score(users) - theirs).max() / np.abs(theirs).max())


def _take_part(address: tuple[str, int], number: int, part: Dataset, most: int, form: FixedPoint) -> None:
    counts_I = join(address, KEY, number, users_of_items(part, most), form)
    layout = Layout.by_event(counts_I)
    join(address, KEY, number, layout.values(Statistics.of(part, "event")), layout.form)


if __name__ == "__main__":
    main()
