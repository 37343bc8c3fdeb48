"""The service behind the HTTP shell: one bundle, one store, and the scheduler between them.

Everything but engine work and writes runs on the event loop's thread. An event is acknowledged once the store has it on
disk, and every later answer knows of it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lanner.data.describe import example_users
from lanner.serving.answering import Found, Question, allowed, explain_one, find, listed, search
from lanner.serving.dispatcher import Dispatcher, Done
from lanner.serving.histories import Histories
from lanner.serving.http.contract import State
from lanner.serving.measuring import measure_profile
from lanner.serving.messages import (
    Changed,
    EventBatch,
    EventsAnswer,
    ExplainAnswer,
    ExplainRequest,
    Health,
    Item,
    RecommendAnswer,
    RecommendRequest,
    Served,
    Status,
    User,
)
from lanner.serving.model import ServedModel, frequent_values
from lanner.serving.recent import Recent
from lanner.serving.scheduling import ElasticConfig, LatencyProfile, Policy, Scheduler, SchedulerConfig
from lanner.serving.store import Store
from lanner.vocabulary import ConfigError, LannerError, OverloadedError, StoreUnavailableError

_encode = msgspec.json.Encoder().encode
_COUNT_SECONDS = 15.0
"""Between two counts of what the store holds, which read all of it."""
_SHOWN = 20
"""Users, and values of an attribute, that the page offers."""
MakePolicy = Callable[[LatencyProfile, ServedModel], Scheduler]


@dataclass(frozen=True)
class ServiceConfig:
    """How requests are answered."""

    deadline_ms: float = 50.0
    """Of a request that names none: later than this its answer is worth nothing."""
    history_length: int = 50
    """Newest events of a user that are read."""
    users_held: int = 100_000
    """Users whose histories are kept in memory."""
    answers_held: int = 10_000
    """Answers kept for a request that comes again before anything has changed; 0: none."""
    most_workers: int = 2
    """Threads of each backend that answer under load; one when it is calm."""
    watch_seconds: float = 1.0
    """How often the store is asked what other servers have changed; 0: never, for a store of one server."""

    def __post_init__(self) -> None:
        for name in ("deadline_ms", "history_length", "users_held", "most_workers"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"serving.{name} is {getattr(self, name)}, it must be above 0")
        for name in ("answers_held", "watch_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"serving.{name} is {getattr(self, name)}, it must be 0 or more")


def ladder_policy(profile: LatencyProfile, model: ServedModel) -> Scheduler:
    """The elastic scheduler over every variant and backend, one worker each to begin with."""
    return Policy(profile, model.variants, dict.fromkeys(model.backends, 1), SchedulerConfig())


class LannerService:
    """Answers of one bundle; what ``http.contract.Service`` asks for."""

    def __init__(
        self,
        model: ServedModel,
        store: Store,
        config: ServiceConfig | None = None,
        make_policy: MakePolicy = ladder_policy,
    ) -> None:
        self.model, self.store, self.config = model, store, config or ServiceConfig()
        self._make_policy = make_policy
        self._histories = Histories(
            model.dataset, model.items, store, self.config.history_length, self.config.users_held
        )
        self._answers: OrderedDict[tuple[Any, ...], RecommendAnswer] = OrderedDict()
        self._under_way: dict[tuple[Any, ...], asyncio.Future[RecommendAnswer]] = {}
        self._dispatcher: Dispatcher | None = None
        self._watching: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self._recent = Recent(self._began)
        self._example_users = example_users(model.dataset, _SHOWN)
        self._attributes = frequent_values(model.dataset.item_catalogue, _SHOWN)
        self._seen = 0
        self._store_stats: dict[str, float] = {}

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Replay the live catalogue, prove the golden requests, warm up, and measure what the scheduler must know."""
        self._seen, _ = await asyncio.to_thread(self.store.changed_users, 0)
        await asyncio.to_thread(self._replay, 0)
        await asyncio.to_thread(self.model.verify)
        await asyncio.to_thread(self.model.warm_up)
        profile = await asyncio.to_thread(measure_profile, self.model, self.config.history_length)
        policy = self._make_policy(profile, self.model)
        self._dispatcher = Dispatcher(policy, self.model.engines, ElasticConfig(maximum=self.config.most_workers))
        if self.config.watch_seconds:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Let the last requests end and close everything."""
        if self._watching is not None:
            self._watching.cancel()
        if self._dispatcher is not None:
            await self._dispatcher.close()
        self.model.close()
        await asyncio.to_thread(self.store.close)

    def _replay(self, after: int) -> int:
        """Bring the catalogue to what the store says; returns the last change's number."""
        for change in self.store.item_changes(after):
            after = change.sequence
            if change.item is None:
                self.model.delete_item(change.id)
            elif self.model.texts is not None:
                self.model.put_item(change.id, change.item)
        return after

    async def _watch(self) -> None:
        """Hear of what other servers wrote, and count what the store holds."""
        items, counted = self._seen, -_COUNT_SECONDS
        while True:
            await asyncio.sleep(self.config.watch_seconds)
            try:
                self._seen, changed = await asyncio.to_thread(self.store.changed_users, self._seen)
                self._histories.drop(changed)
                items = await asyncio.to_thread(self._replay, items)
                if time.monotonic() - counted >= _COUNT_SECONDS:
                    counted = time.monotonic()
                    self._store_stats = msgspec.structs.asdict(await asyncio.to_thread(self.store.stats))
            except StoreUnavailableError:
                self._histories.degraded = True

    async def health(self) -> Health:
        """Ready once ``start`` has ended; degraded while the store does not answer."""
        degraded = []
        try:
            await asyncio.to_thread(self.store.check)
        except LannerError:
            degraded.append("the store does not answer: histories are those of the bundle, and events are refused")
        return Health(ready=self._dispatcher is not None, degraded=degraded)

    async def status(self) -> Status:
        """What answers and how it fares, for the page."""
        model = self.model
        return Status(
            time=time.time(),
            up_s=time.monotonic() - self._began,
            model=model.version,
            variants=list(model.variants),
            backends=list(model.backends),
            recent=self._recent.figures(time.monotonic()),
            queue_depth=self._depth,
            num_items=len(model.items),
            num_users=model.dataset.num_users,
            example_users=self._example_users,
            attributes=self._attributes,
            reads_texts=model.texts is not None,
        )

    def state(self) -> State:
        """What is held now."""
        held = {"histories": float(self._histories.held_bytes), "answers_kept": float(len(self._answers))}
        held["engines"] = float(sum(engine.state_bytes for engine in self.model.engines.values()))
        return State(self._depth, held, self._store_stats)

    @property
    def _depth(self) -> int:
        return 0 if self._dispatcher is None else self._dispatcher.depth

    # --- questions -------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """From memory where nothing has changed since the same request was last answered."""
        key = self._key(request)
        kept = self._answers.get(key)
        if kept is not None:
            self._answers.move_to_end(key)
            self._recent.answered(time.monotonic(), 0.0, kept.served.variant, kept.served.backend, True)
            return msgspec.structs.replace(kept, served=msgspec.structs.replace(kept.served, cached=True))
        if key in self._under_way:
            return await asyncio.shield(self._under_way[key])
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await self._recommend(request)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # nobody else may have waited
            raise
        finally:
            del self._under_way[key]
        future.set_result(answer)
        self._keep(key, answer)
        return answer

    async def _recommend(self, request: RecommendRequest) -> RecommendAnswer:
        question = self._question(request.user_id, request.history, request.text)
        allow, deny = allowed(self.model, request.filters)
        question = msgspec.structs.replace(
            question,
            k=request.k,
            exclude_seen=request.exclude_seen,
            allow=allow,
            deny=deny,
            diversity=request.diversity,
            explain=request.explain,
        )
        done = await self._ask(lambda engine: find(engine, question), request.deadline_ms)
        return self._answer(done, request.text is not None)

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score."""
        row = self.model.items.row(request.item_id)
        question = msgspec.structs.replace(self._question(request.user_id, request.history, request.text), explain=True)
        done = await self._ask(lambda engine: explain_one(engine, question, row), None)
        answer = self._answer(done, request.text is not None)
        return ExplainAnswer(item=answer.items[0], served=answer.served)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items that the model takes to be most alike."""
        row = self.model.items.row(item_id)
        nobody = np.empty(0, np.int64)
        return self._answer(await self._ask(lambda e: Found(e.similar(row, k), None, nobody), None), False)

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """The items whose texts lie nearest to words."""
        if self.model.texts is None:
            raise ConfigError("this recommender reads no texts; search is not served")
        rows = np.empty(0, np.int64) if user_id is None else self._rows(user_id)
        done = await self._ask(lambda engine: search(self.model, engine, q, rows, k), None)
        return self._answer(done, False)

    async def _ask(self, work: Callable[[Any], Found], deadline_ms: float | None) -> Done:
        if self._dispatcher is None:
            raise StoreUnavailableError("the server is starting; ask again in a moment")
        within_s, begun = (deadline_ms or self.config.deadline_ms) / 1e3, time.monotonic()
        try:
            done = await self._dispatcher.submit(work, within_s)
        except OverloadedError:
            self._recent.refused(time.monotonic())
            raise
        now = time.monotonic()
        self._recent.answered(now, (now - begun) * 1e3, done.variant, done.backend, now - begun <= within_s)
        return done

    def _question(self, user_id: str | None, history: list[str] | None, text: str | None) -> Question:
        """Who asks.

        Raises:
            ConfigError: nobody was named, or a user beside a history.
        """
        if user_id is not None and history is not None:
            raise ConfigError("give either user_id or history; a known user's history is known here")
        if text is not None and self.model.texts is None:
            raise ConfigError("this recommender reads no texts; leave the text out")
        if user_id is None and history is None and text is None:
            raise ConfigError("say for whom: user_id, history or text")
        if user_id is None:
            known = self.model.items.known_rows(history or ())
            return Question(np.array(known[-self.config.history_length :], np.int64), None, text, 1)
        state = self._histories.of(user_id)
        return Question(self.model.items.current(state.rows), state.profile, text, 1)

    def _rows(self, user_id: str) -> NDArray[np.int64]:
        return self.model.items.current(self._histories.of(user_id).rows)

    def _answer(self, done: Done, has_text: bool) -> RecommendAnswer:
        begun = time.perf_counter()
        items = listed(done.result, self.model.items, has_text)
        named = time.perf_counter() - begun
        times = {"queue": done.queued_s, "engine": done.worked_s, "names": named}
        times["total"] = sum(times.values())
        milliseconds = {name: round(seconds * 1e3, 3) for name, seconds in times.items()}
        served = Served(model=self.model.version, variant=done.variant, backend=done.backend, milliseconds=milliseconds)
        return RecommendAnswer(items=items, served=served)

    def _key(self, request: RecommendRequest) -> tuple[Any, ...]:
        """Equal for requests that have the same answer."""
        version = 0 if request.user_id is None else self._histories.of(request.user_id).version
        return self.model.version, self.model.items.version, version, _encode(request)

    def _keep(self, key: tuple[Any, ...], answer: RecommendAnswer) -> None:
        """An answer from further down the ladder is not kept: the next one may be better."""
        if self.config.answers_held and answer.served.variant == self.model.variants[0]:
            self._answers[key] = answer
            if len(self._answers) > self.config.answers_held:
                self._answers.popitem(last=False)

    # --- changes ---------------------------------------------------------------------------------------------------

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; returns once they are on disk."""
        answer = await asyncio.to_thread(self.store.append, batch.events, time.time())
        self._histories.happened(batch.events)
        return answer

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item; it can be recommended when this returns."""
        if self.model.texts is None:
            raise ConfigError("this recommender reads no texts, so it cannot place an item that nobody met")
        changed = await asyncio.to_thread(self.store.put_item, item_id, item)
        existed = await asyncio.to_thread(self.model.put_item, item_id, item)
        return Changed(id=item_id, existed=existed or changed.existed)

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item."""
        await asyncio.to_thread(self.store.delete_item, item_id)
        return Changed(id=item_id, existed=await asyncio.to_thread(self.model.delete_item, item_id))

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a profile and ties."""
        changed = await asyncio.to_thread(self.store.put_user, user_id, user)
        self._histories.drop([user_id])
        return _existed(changed, user_id in self.model.dataset.users)

    async def delete_user(self, user_id: str) -> Changed:
        """Forget a person everywhere: in the store, in memory, and in what the bundle knows."""
        known = user_id in self.model.dataset.users and not await asyncio.to_thread(self.store.is_forgotten, user_id)
        changed = await asyncio.to_thread(self.store.forget_user, user_id)
        self._histories.drop([user_id])
        self._answers.clear()
        return _existed(changed, known)


def _existed(changed: Changed, known: bool) -> Changed:
    """A person may be known from the bundle alone."""
    return msgspec.structs.replace(changed, existed=changed.existed or known)
