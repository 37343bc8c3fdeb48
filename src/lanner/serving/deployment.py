"""One bundle version opened in one worker process: rankers of its variants, catalog and user histories.

A simple request (no filters, text or explanation) is ranked on the event loop, batched with others that arrived in the
same loop iteration. Texts are encoded in a thread first. Slow requests (filters, diversity, explanations, similar
items, search) run in a thread, with the best variant. One availability mask, shared by all variants, always applies.
"""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from lanner.artifacts.bundle import Bundle, read_bundle
from lanner.artifacts.golden import check_golden
from lanner.artifacts.variants import FULL, INT8, POPULARITY, TextFiles, Variant
from lanner.data.describe import example_users
from lanner.encoders import TextReader, open_text_reader
from lanner.errors import ConfigError, LannerError, MissingExtraError, RequestError, StoreUnavailableError
from lanner.inference.eligibility import RowMask
from lanner.inference.explain import Explanation, reasons
from lanner.inference.ranker import Query, Ranker, Ranking
from lanner.inference.retrieval import RetrievalConfig
from lanner.inference.wording import Wording
from lanner.serving.acceleration import ACCELERATED, accelerator_of, asked_of, source_of
from lanner.serving.calibration import calibration_histories, measure_profile
from lanner.serving.catalog import Catalog
from lanner.serving.index_cache import cached_index
from lanner.serving.item_ingestion import ItemIngestion
from lanner.serving.messages import (
    ExplainAnswer,
    ExplainRequest,
    Filters,
    Reason,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Served,
)
from lanner.serving.response_cache import CacheKey, ResponseCache, SingleFlight
from lanner.serving.scheduler import Batcher, Done, LatencyProfile, Scheduler, SchedulerConfig, VariantId
from lanner.serving.store import Store
from lanner.serving.user_history import UserHistory

if TYPE_CHECKING:
    from lanner.accelerators.backend import Backend

_DEFAULT_BACKEND = "numpy"
"""Name of the ranking backend in responses."""
_NUM_EXAMPLES = 20
"""Example users, and values per attribute, offered by the page."""
_CHEAP_FILTER = 2_000
"""Filters touching at most this many ids and rows are resolved on the event loop."""
_TEXTS_KEPT = 4_096
"""Size of the text feature cache."""
_OVERSAMPLING, _TASTE = 10, 0.1
"""Search re-ranks this many times k nearest texts; weight of the user's scores, in cosine per standard deviation."""
_NO_ROWS = np.empty(0, np.int64)
_encode = msgspec.json.Encoder().encode
_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelConfig:
    """Which variants and backends of a bundle are served."""

    variants: tuple[str, ...] = ()
    """Variants to serve, best first; empty: all. The popularity fallback is always available."""
    backends: tuple[str, ...] = ()
    """Runtimes for the text encoder, in order of preference; empty: the fastest one installed."""
    threads: int = 1
    """Threads of the text encoder's runtime per worker."""
    candidates: int = 200
    """Items retrieved as candidates for the ranking head. Smaller variants, used under load, retrieve half as many and
    search large catalogs with lower recall."""
    most_new_items: int = 100_000
    """Maximum number of items added or changed until a newer bundle is served."""
    accelerator: str = ""
    """``emulator``, or a board: ``board:/dev/ttyUSB0``, ``board:HOST:PORT``. Adds the variant ``accelerated``, as the
    first unless ``variants`` names it. Empty: none. See docs/accelerator.md."""
    accelerator_mhz: float | None = None
    """Clock in MHz for converting accelerator cycles to time; default: the clock routed on the smallest device that
    fits, or on the ECP5-25F if none does."""

    def __post_init__(self) -> None:
        if self.accelerator_mhz is not None and not self.accelerator_mhz > 0:
            raise ConfigError(f"model.accelerator_mhz is {self.accelerator_mhz}, it must be above 0")
        for name in ("threads", "candidates", "most_new_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name} is {getattr(self, name)}, it must be at least 1")


@dataclass(frozen=True)
class ServiceConfig:
    """How requests are answered."""

    deadline_ms: float = 50.0
    """Deadline in ms for requests that do not name one."""
    text_deadline_ms: float = 500.0
    """Default deadline in ms for requests with a text, which must be encoded first."""
    users_held: int = 100_000
    """Maximum number of users whose histories are cached per worker."""
    answers_held: int = 10_000
    """Size of the response cache; entries are invalidated by any change. 0: no cache."""
    watch_seconds: float = 1.0
    """Polling interval in seconds for changes made by other servers; 0: never, for a store used by one server."""
    slow_threads: int = 2
    """Threads per worker for texts, filters, diversity, explanations, similar items and search."""

    def __post_init__(self) -> None:
        for name in ("deadline_ms", "text_deadline_ms", "users_held", "slow_threads"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"service.{name} is {getattr(self, name)}, it must be above 0")
        for name in ("answers_held", "watch_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"service.{name} is {getattr(self, name)}, it must be 0 or more")


def served_variants(model: ModelConfig, bundle: Bundle) -> list[str]:
    """Names of the variants to serve, best first.

    Raises:
        ConfigError: a variant that the bundle lacks.
    """
    names = list(model.variants or bundle.variants)
    names += [name for name in (POPULARITY,) if name not in names and name in bundle.variants]
    if model.accelerator and ACCELERATED not in names:
        names.insert(0, ACCELERATED)
    known = [*bundle.variants, *([ACCELERATED] if model.accelerator else [])]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"no variant '{unknown[0]}' in {bundle.path}; it has {', '.join(known)}")
    return names


def _effort(variant: str, candidates: int) -> tuple[int, RetrievalConfig]:
    """Candidates of a variant and its retrieval settings; at 100,000 items retrieval dominates latency."""
    if variant == FULL:
        return candidates, RetrievalConfig()
    return max(1, candidates // 2), RetrievalConfig(recall_target=0.95, retrieved_recall=0.85)


class _UserContext(NamedTuple):
    """The user side of a request. query: history, seen items, friends, profile. version: of the user state."""

    query: Query
    version: int
    unknown: list[str]


class Deployment:
    """Requests run on the event loop; opening, ``verify``, ``warm_up``, ``catch_up`` and ``close`` block."""

    def __init__(
        self,
        bundle: Bundle,
        catalog: Catalog,
        rankers: Mapping[str, Ranker],
        reader: TextReader | None,
        ingestion: ItemIngestion,
        store: Store,
        config: ServiceConfig,
        scheduling: SchedulerConfig | None,
        accelerator: "Backend | None" = None,
    ) -> None:
        """rankers: by variant, best first, all sharing the catalog's availability. accelerator: of ``accelerated``.

        See ``open``.
        """
        self.bundle, self.version, self.dataset = bundle, bundle.version, bundle.dataset
        self.catalog, self.rankers, self.ingestion, self.config = catalog, rankers, ingestion, config
        self._reader, self._store, self._scheduling = reader, store, scheduling
        self._accelerator = accelerator
        self._backends = dict.fromkeys(rankers, _DEFAULT_BACKEND)
        if accelerator is not None:
            self._backends[ACCELERATED] = accelerator.name
        self._best = next(iter(rankers.values()))
        self.histories = UserHistory(
            bundle.dataset, catalog, store, bundle.feedback, watermark=bundle.watermark, most_users=config.users_held
        )
        self._wording = dataclasses.replace(
            Wording.of(bundle.dataset), item_title=catalog.title, attributes_of=catalog.attributes_of
        )
        self._answers = ResponseCache(config.answers_held)
        self._under_way: SingleFlight[CacheKey, RecommendAnswer] = SingleFlight()
        self._read_texts: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self.profile: LatencyProfile
        """Batch latencies measured by ``warm_up``."""

    @classmethod
    def open(
        cls,
        path: Path,
        store: Store,
        model: ModelConfig | None = None,
        config: ServiceConfig | None = None,
        scheduling: SchedulerConfig | None = None,
        shared: Path | None = None,
    ) -> "Deployment":
        """Open a bundle; ``verify``, ``warm_up`` and ``catch_up`` complete the startup.

        shared: folder shared by this server's workers; see ``ItemIngestion``.

        Raises:
            BundleError: no bundle, or a damaged one. ConfigError: an unknown variant or backend.
            MissingExtraError: the model uses texts and no runtime for the text encoder is installed.
        """
        model, config, bundle = model or ModelConfig(), config or ServiceConfig(), read_bundle(path)
        names = served_variants(model, bundle)
        accelerator = None
        if model.accelerator:
            accelerator = accelerator_of(bundle, model.accelerator, model.accelerator_mhz)
        variants = [
            dataclasses.replace(bundle.variant(source_of(bundle)), name=name)
            if name == ACCELERATED
            else bundle.variant(name)
            for name in names
        ]
        reader, items = _text_reader(variants, bundle.text_files, model), bundle.item_reader
        catalog = Catalog(bundle.dataset, items.texts if items is not None and reader is not None else None)
        rankers = {
            one.name: Ranker(
                one.model,
                index=cached_index(
                    one.model, f"{bundle.version} {one.name}", bundle.dataset, *_effort(one.name, model.candidates)
                ),
                candidates=_effort(one.name, model.candidates)[0],
                available=catalog.available,
                reader=reader,
                accelerator=accelerator if one.name == ACCELERATED else None,
            )
            for one in variants
        }
        ingestion = ItemIngestion(
            catalog,
            list(rankers.values()),
            model=bundle.variant(FULL).model,
            reader=items,
            read=None if reader is None else reader.read,
            most_new_items=model.most_new_items,
            shared=None if shared is None else shared / bundle.version,
            # The event loop creates the batcher at the first request; until then ingestion may use all its time.
            busy=lambda: deployment.batcher.busy if "batcher" in vars(deployment) else 0.0,
        )
        deployment = cls(bundle, catalog, rankers, reader, ingestion, store, config, scheduling, accelerator)
        return deployment

    # --- lifecycle, in threads -------------------------------------------------------------------------------------

    def verify(self) -> int:
        """Replay the golden requests on every variant against the original catalog; returns how many were replayed.

        Raises:
            BundleError: an answer differs; the message names the variant. AcceleratorError: likewise.
        """
        golden, place = self.bundle.golden, f"bundle {self.version}"
        num_checked = 0 if self._accelerator is None else self._accelerator.verify(asked_of(self.bundle))
        stored = [(one, name) for name, one in self.rankers.items() if name != ACCELERATED]
        return num_checked + sum(check_golden(one, name, self.dataset, golden, place) for one, name in stored)

    def warm_up(self) -> None:
        """Calibrate every variant's latency and warm up the text encoder."""
        if self._reader is not None:
            self._reader.warm_up()
        queries = [Query(rows, seen=rows) for rows in calibration_histories(self.dataset)]
        self.profile = measure_profile(self._rank, self._variant_ids, queries)

    def catch_up(self) -> None:
        """Apply item changes from the store since the last call; one thread at a time.

        Raises:
            StoreUnavailableError: the store does not respond; try again.
        """
        self.ingestion.apply(self._store.item_changes(self.ingestion.applied))

    def close(self) -> None:
        """Release threads and the text encoder's runtime."""
        if "batcher" in vars(self):
            self.batcher.close()
        self.histories.close()
        if self._reader is not None:
            self._reader.close()
        if self._accelerator is not None:
            self._accelerator.close()

    # --- state -----------------------------------------------------------------------------------------------------

    @property
    def variants(self) -> tuple[str, ...]:
        """Served variants, best first."""
        return tuple(self.rankers)

    @property
    def backends(self) -> tuple[str, ...]:
        """The ranking backends and the text encoder's runtime."""
        ranking = tuple(dict.fromkeys(self._backends.values()))
        return ranking if self._reader is None else (*ranking, self._reader.backend)

    @property
    def reads_texts(self) -> bool:
        """Whether the model uses query texts."""
        return self._reader is not None and self._best.reads_text

    @cached_property
    def example_users(self) -> list[str]:
        """Ids of some known users."""
        return example_users(self.dataset, _NUM_EXAMPLES)

    @cached_property
    def attributes(self) -> dict[str, list[str]]:
        """Attributes for filtering: the most frequent values of each."""
        return self.catalog.frequent_values(_NUM_EXAMPLES)

    def slowness(self) -> dict[str, float]:
        """Batch latency relative to its calibrated value, by variant."""
        return {name.variant: ratio for name, ratio in self.profile.ratios().items()}

    def accelerator_figures(self) -> dict[str, float]:
        """Requests, cycles and faults of the accelerator; empty without one."""
        return {} if self._accelerator is None else self._accelerator.figures()

    def held_bytes(self) -> dict[str, int]:
        """Bytes in memory by content; variants share memory-mapped files."""
        models = sum(ranker.memory_bytes for ranker in self.rankers.values())
        return {"models": models, "histories": self.histories.held_bytes, "answers": self._answers.held_bytes}

    def held_entries(self) -> dict[str, int]:
        """Entries in memory by content."""
        return {"histories": len(self.histories), "answers": len(self._answers)}

    def drop_users(self, user_ids: Sequence[str] | None) -> None:
        """Drop cached histories of these users (None: all)."""
        self.histories.drop(user_ids)
        if user_ids is None:
            self._answers.clear()
            self._read_texts.clear()

    @cached_property
    def batcher(self) -> Batcher[Query, Ranking]:
        """Created at the first request, on the event loop."""
        ids = {one.variant: one for one in self._variant_ids}
        personal = [ids[name] for name in ids if name != POPULARITY] or [ids[POPULARITY]]
        fallback = ids.get(POPULARITY) if len(ids) > 1 else None
        scheduler = Scheduler(self.profile, personal, self._scheduling, fallback)
        return Batcher(scheduler, self._rank, slow_threads=self.config.slow_threads)

    @property
    def _variant_ids(self) -> list[VariantId]:
        return [VariantId(backend, name) for name, backend in self._backends.items()]

    def _rank(self, variant: VariantId, queries: Sequence[Query]) -> Sequence[Ranking]:
        return self.rankers[variant.variant].rank(queries)

    # --- requests --------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """Recommend items; from the response cache if nothing has changed since an identical request.

        Raises:
            RequestError: the user is not specified; user_id and history both given; a filter by an unknown attribute.
            OverloadedError: the deadline cannot be met.
        """
        started = perf_counter()
        context = await self._user_context(request)
        key = CacheKey(self.catalog.version, context.version, _encode(request))
        cached = self._answers.get(key)
        if cached is not None:
            spent = _milliseconds(queue=0.0, memory=perf_counter() - started)
            return replace(cached, served=replace(cached.served, cached=True, milliseconds=spent))
        return await self._under_way.run(key, partial(self._answer_and_keep, request, context, key, started))

    async def answer(self, request: RecommendRequest) -> RecommendAnswer:
        """Recommend items, bypassing the response cache."""
        return await self._answer(request, await self._user_context(request), perf_counter())

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Explain an item's score.

        Raises:
            UnknownIdError: unknown item. As ``recommend``.
        """
        started, row = perf_counter(), np.array([self.catalog.row(request.item_id)])
        context = await self._user_context(request)
        query = await self._encoded(context.query, request.text, self.config.text_deadline_ms / 1e3)

        def work() -> Ranking:
            explained = self._best.explain(query, row)
            fallback = self._best.rank([dataclasses.replace(query, k=1)])[0].fallback
            return Ranking(row, np.array([explained[0].score], np.float32), fallback, tuple(explained))

        done = await self._in_thread(work, None, started)
        items, served = self._named(done)
        ignored = bool(request.text) and not self._best.reads_text
        return ExplainAnswer(
            item=items[0], served=served, unknown=context.unknown, fallback=done.result.fallback, text_ignored=ignored
        )

    async def similar(self, item_id: str, k: int) -> RecommendAnswer:
        """The top k items for a history of this item alone.

        Raises:
            UnknownIdError: unknown item.
        """
        started, row = perf_counter(), self.catalog.row(item_id)
        done = await self._in_thread(lambda: self._best.similar(row, k), None, started)
        items, served = self._named(done)
        return RecommendAnswer(items=items, served=served, fallback=done.result.fallback)

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """Semantic search: the items nearest to the query text, re-ranked by the user's taste.

        Raises:
            RequestError: the model does not use texts.
        """
        if not self.reads_texts:
            raise RequestError("this model does not use texts; search is not available")
        started = perf_counter()
        context = None if user_id is None else await self._user(user_id)
        features_F = await self._features(q, self.config.text_deadline_ms / 1e3)
        done = await self._in_thread(lambda: self._searched(features_F, context and context.query, k), None, started)
        items, served = self._named(done)
        return RecommendAnswer(items=items, served=served, unknown=context.unknown if context else [])

    async def _answer_and_keep(
        self, request: RecommendRequest, context: _UserContext, key: CacheKey, started: float
    ) -> RecommendAnswer:
        answer = await self._answer(request, context, started)
        # Responses of smaller variants are not cached: the next one may be better.
        if answer.served.variant == self.variants[0]:
            self._answers.put(key, answer)
        return answer

    async def _answer(self, request: RecommendRequest, context: _UserContext, started: float) -> RecommendAnswer:
        deadline_ms = self.config.text_deadline_ms if request.text else self.config.deadline_ms
        deadline_s = (request.deadline_ms or deadline_ms) / 1e3
        seen = context.query.seen if request.exclude_seen else _NO_ROWS
        query = dataclasses.replace(
            context.query, seen=seen, k=request.k, diversity=request.diversity, explain=request.explain
        )
        query = await self._encoded(query, request.text, deadline_s)
        unknown, filters = [*context.unknown], request.filters
        if request.diversity or request.explain or not self._is_cheap(filters):
            work = partial(self._filtered, query, filters, unknown)
            done = await self._in_thread(lambda: self._best.rank([work()])[0], request.deadline_ms, started)
        else:
            done = await self.batcher.submit(self._filtered(query, filters, unknown), deadline_s, started)
        items, served = self._named(done)
        ignored = bool(request.text) and not self.rankers[served.variant].reads_text
        return RecommendAnswer(
            items=items, served=served, unknown=unknown, fallback=done.result.fallback, text_ignored=ignored
        )

    async def _user_context(self, request: RecommendRequest | ExplainRequest) -> _UserContext:
        context = await self._described_user(request)
        if request.attributes is None:
            return context
        values, unknown = self.dataset.user_catalogue.find(request.attributes)
        query = dataclasses.replace(context.query, attributes=values)
        return _UserContext(query, context.version, [*context.unknown, *unknown])

    async def _described_user(self, request: RecommendRequest | ExplainRequest) -> _UserContext:
        if request.user_id is not None:
            if request.history is not None:
                raise RequestError("give either user_id or history, not both")
            return await self._user(request.user_id)
        if request.history is None and request.text is None and request.attributes is None:
            raise RequestError("one of user_id, history, text or attributes is required")
        rows, unknown = self.catalog.known_rows(request.history or ())
        return _UserContext(Query(rows, seen=rows), 0, unknown)

    async def _user(self, user_id: str) -> _UserContext:
        """A user from cache or store; treated as anonymous while the store is unavailable."""
        state = self.histories.get(user_id)
        if state is None:
            try:
                state = await self.histories.load(user_id)
            except StoreUnavailableError:
                return _UserContext(Query(), -1, [user_id])
        rows, seen = self.catalog.current(state.rows), self.catalog.current(state.seen)
        query = Query(
            rows, state.weights, seen, state.friends.astype(np.int64), state.profile, attributes=state.attributes
        )
        return _UserContext(query, state.version, [] if state.known else [user_id])

    async def _encoded(self, query: Query, text: str | None, deadline_s: float) -> Query:
        """The query with its texts encoded, so that no batch waits for the encoder."""
        if query.profile and self._reader is not None and self._best.reads_profile:
            query = dataclasses.replace(query, profile_features=await self._features(query.profile, deadline_s))
        if text and self.reads_texts:
            query = dataclasses.replace(query, text_features=await self._features(text, deadline_s))
        return query

    async def _features(self, text: str, deadline_s: float) -> NDArray[np.float32]:
        """Features of a text, float32 ``[F]``, computed in a thread and cached."""
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        features_F = self._read_texts.get(key)
        if features_F is None:
            assert self._reader is not None
            read = await self.batcher.submit_slow(partial(self._reader.features, [text]), deadline_s)
            features_F = self._read_texts[key] = read.result[0]
            if len(self._read_texts) > _TEXTS_KEPT:
                self._read_texts.popitem(last=False)
        return features_F

    async def _in_thread(self, work: Callable[[], Ranking], deadline_ms: float | None, started: float) -> Done[Ranking]:
        """Run ``work`` in a thread, with the best variant."""
        deadline_s = (deadline_ms or self.config.deadline_ms) / 1e3
        done = await self.batcher.submit_slow(work, deadline_s, started)
        best = self.variants[0]
        return Done(done.result, self._backends[best], best, done.queued_s, done.worked_s)

    def _is_cheap(self, filters: Filters | None) -> bool:
        """Whether filters are resolved on the event loop; with an index every filtered search runs on its own."""
        return filters is None or (self._best.index is None and self.catalog.filter_cost(filters) < _CHEAP_FILTER)

    def _filtered(self, query: Query, filters: Filters | None, unknown: list[str]) -> Query:
        """The query with its filters applied; appends their unknown ids."""
        if filters is None:
            return query
        allowed = self.catalog.allowed(filters)
        unknown += allowed.unknown
        return dataclasses.replace(query, allow=allowed.mask, deny=allowed.deny)

    def _searched(self, features_F: NDArray[np.float32], query: Query | None, k: int) -> Ranking:
        near, cosines = self.catalog.nearest(features_F, k * _OVERSAMPLING)
        if query is not None and len(query.history) and len(near):
            allow = RowMask.of(near, self.catalog.num_rows)
            taste = self._best.rank([dataclasses.replace(query, seen=_NO_ROWS, k=len(near), allow=allow)])[0]
            if not taste.fallback and len(taste.items) == len(near):
                order, given = np.argsort(taste.items), np.argsort(near)
                scores = np.empty_like(cosines)
                scores[given] = taste.scores[order]
                cosines = cosines + _TASTE * (scores - scores.mean()) / max(float(scores.std()), 1e-9)
        best = np.argsort(-cosines, kind="stable")[:k]
        return Ranking(near[best], cosines[best])

    def _named(self, done: Done[Ranking]) -> tuple[list[RecommendedItem], Served]:
        """Items with ids, titles and reasons, and the ``Served`` record."""
        started, found = perf_counter(), done.result
        named = self.catalog.named(found.items)
        items = [
            RecommendedItem(item_id=item_id, title=title, score=score, rank=rank)
            for rank, ((item_id, title), score) in enumerate(zip(named, found.scores.tolist(), strict=True), 1)
        ]
        if found.explanations:
            items = [self._explained(*pair) for pair in zip(items, found.explanations, strict=True)]
        spent = _milliseconds(queue=done.queued_s, ranking=done.worked_s, names=perf_counter() - started)
        # The accelerated variant ranks in floats what the accelerator does not cover.
        backend = _DEFAULT_BACKEND if done.variant == ACCELERATED and not found.accelerated else done.backend
        return items, Served(model=self.version, variant=done.variant, backend=backend, milliseconds=spent)

    def _explained(self, item: RecommendedItem, explanation: Explanation) -> RecommendedItem:
        parts = reasons(explanation, self._wording.item_title, self._wording.user_name)
        return replace(
            item,
            reasons=[Reason(kind=part.kind, name=part.name, value=part.value) for part in parts],
            because=self._wording.cell(explanation),
        )


def _text_reader(variants: Sequence[Variant], texts: TextFiles | None, config: ModelConfig) -> TextReader | None:
    """One encoder for all variants, preferably INT8 (3 times faster); None: texts are not used."""
    encoding = min(
        (one for one in variants if "encoder_shape" in one.figures), key=lambda one: one.name != INT8, default=None
    )
    if encoding is None or texts is None:
        return None
    failure: LannerError | None = None
    for backend in config.backends or (None,):
        try:
            return open_text_reader(encoding, texts, backend, config.threads)
        except MissingExtraError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def _milliseconds(**seconds: float) -> dict[str, float]:
    """Milliseconds by component, and their total."""
    seconds["total"] = sum(seconds.values())
    return {name: round(one * 1e3, 3) for name, one in seconds.items()}
