"""One version while it is served: its model, the histories as its catalogue numbers them, and its own scheduler.

Everything here but the engines' work, the opening and the changes of items runs on the event loop's thread.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from lanner.data.describe import example_users
from lanner.errors import ConfigError, LannerError, StoreUnavailableError
from lanner.serving.answering import Found, Question, Work, allowed, explain_one, is_quick, listed, search, work_on
from lanner.serving.beside.crew import Crew
from lanner.serving.dispatcher import Dispatcher, Done, Occupied, Spare
from lanner.serving.histories import Histories
from lanner.serving.kept_answers import KeptAnswers, Key
from lanner.serving.measuring import asked_histories, measure_profile
from lanner.serving.messages import ExplainAnswer, ExplainRequest, RecommendAnswer, RecommendRequest, Served
from lanner.serving.model import ServedModel, frequent_values
from lanner.serving.scheduling import ElasticConfig, LatencyProfile, Policy, Scheduler
from lanner.serving.store import Store

_encode = msgspec.json.Encoder().encode
_SHOWN = 20
"""Users, and values of an attribute, that the page offers."""
_MOST_PROCESSES = 4
"""As many as are started unasked: each takes memory for an interpreter and its libraries."""
MakePolicy = Callable[[LatencyProfile, ServedModel], "Scheduling"]


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
    most_workers: int = max(1, (os.cpu_count() or 1) - 1)
    """Batches that each backend may work on under load; one when it is calm. The loop needs a processor of its own."""
    processes: int = min(_MOST_PROCESSES, max(1, (os.cpu_count() or 1) - 1)) if hasattr(os, "fork") else 0
    """Processes that answer plain requests; threads of the server answer what these do not. 0: threads answer all."""
    watch_seconds: float = 1.0
    """How often the store is asked what other servers have changed; 0: never, for a store of one server."""

    def __post_init__(self) -> None:
        for name in ("deadline_ms", "history_length", "users_held", "most_workers"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"serving.{name} is {getattr(self, name)}, it must be above 0")
        for name in ("answers_held", "processes", "watch_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"serving.{name} is {getattr(self, name)}, it must be 0 or more")


class Scheduling(NamedTuple):
    """Who decides, and who answers what is not decided well: see ``Dispatcher``."""

    scheduler: Scheduler
    spare: Spare | None = None


def ladder_policy(profile: LatencyProfile, model: ServedModel) -> Scheduling:
    """The elastic scheduler over every variant and backend, one worker each to begin with; the last variant is spare
    where it takes no worker's time."""
    workers, quickest = dict.fromkeys(model.backends, 1), model.quickest
    if quickest is None:
        return Scheduling(Policy(profile, model.variants, workers))
    curve = profile.curve(*quickest)
    assert curve is not None, "every engine was measured"
    variants = [name for name in model.variants if name != quickest[1]]
    return Scheduling(Policy(profile, variants, workers, sheds=True), Spare(*quickest, curve.p99_s(1)))


class ServedVersion:
    """Answers of one version; what ``versions.swap`` asks of a model, and the questions of the service."""

    def __init__(
        self,
        model: ServedModel,
        store: Store,
        config: ServiceConfig,
        make_policy: MakePolicy,
        loop: asyncio.AbstractEventLoop,
        crew: Crew | None = None,
    ) -> None:
        """loop: on which questions will be asked.

        crew: told to open the same, and closed with this; None: threads do all the work.
        """
        self.model, self.version = model, model.version
        self._store, self._config, self._make_policy, self._loop = store, config, make_policy, loop
        self._crew = crew
        self.histories = Histories(model.dataset, model.items, store, config.history_length, config.users_held)
        self.example_users = example_users(model.dataset, _SHOWN)
        self.attributes = frequent_values(model.dataset.item_catalogue, _SHOWN)
        self._answers = KeptAnswers(config.answers_held)
        self._under_way: dict[Key, asyncio.Future[RecommendAnswer]] = {}
        self._dispatcher: Dispatcher | None = None
        self._profile: LatencyProfile | None = None
        self._items_seen = 0

    # --- life, beside the loop -------------------------------------------------------------------------------------

    def verify(self) -> int:
        """Ask the golden requests, of the catalogue as it was written; returns how many there are.

        Raises:
            BundleError: an answer differs.
        """
        return self.model.verify()

    def warm_up(self) -> None:
        """Take in what was written since the bundle, and measure what the scheduler must know."""
        self.model.warm_up()
        self._profile = profile = self._measured()
        self.catch_up()
        scheduler, spare = self._make_policy(profile, self.model)
        elastic = ElasticConfig(maximum=self._config.most_workers)
        beside = None if self._crew is None else self._crew.asked
        self._dispatcher = Dispatcher(
            scheduler, self.model.engines, work_on, self._loop, elastic, is_quick, beside, spare
        )

    def _measured(self) -> LatencyProfile:
        """Of whoever will answer plain requests."""
        model = self.model
        if self._crew is None:
            return measure_profile(model.engines, asked_histories(model.dataset, self._config.history_length))
        times = self._crew.measured()
        model.followers = self._crew
        return LatencyProfile(dict.fromkeys(model.backends, times))

    def catch_up(self) -> None:
        """Bring the catalogue to what the store says; one thread at a time.

        Raises:
            ConfigError: an item could not be taken in; the others were. StoreUnavailableError: to be tried again.
        """
        failed: list[LannerError] = []
        for change in self._store.item_changes(self._items_seen):
            try:
                if change.item is None:
                    self.model.delete_item(change.id)
                elif self.model.texts is not None:
                    self.model.put_item(change.id, change.item)
            except LannerError as error:
                failed.append(error)
            self._items_seen = change.sequence
        if failed:
            raise failed[0]

    def close(self) -> None:
        """Let the last work end and let go of the runtimes."""
        if self._crew is not None:
            self._crew.close()
        if self._dispatcher is not None:
            self._dispatcher.close()
        self.model.close()

    # --- what is held ----------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Requests that wait or are worked on."""
        return 0 if self._dispatcher is None else self._dispatcher.depth

    @property
    def occupied(self) -> Occupied:
        """How busy it is now, and was since it was opened."""
        return Occupied() if self._dispatcher is None else self._dispatcher.occupied

    @property
    def is_worn(self) -> bool:
        """Whether an engine process has died: this version answers, but is to be opened anew."""
        return self._crew is not None and self._crew.has_died

    @property
    def busy(self) -> float:
        """See ``Dispatcher.busy``."""
        return 0.0 if self._dispatcher is None else self._dispatcher.busy

    def slowness(self) -> dict[str, float]:
        """How many times as long batches take lately as when it was opened, by variant and backend."""
        ratios = {} if self._profile is None else self._profile.ratios()
        return {f"{variant}/{backend}": ratio for (backend, variant), ratio in ratios.items()}

    def held_bytes(self) -> dict[str, int]:
        """Bytes in memory by name."""
        held = {"histories": self.histories.held_bytes, "answers": self._answers.held_bytes}
        return held | self.model.held_bytes()

    def held_entries(self) -> dict[str, int]:
        """How many there are of what is kept by the request or the user."""
        entries = {"histories": len(self.histories), "answers": len(self._answers)}
        return entries if self._crew is None else entries | {"engine_processes": self._crew.living}

    def forget(self, user_id: str) -> None:
        """Hold nothing of a person, nor any answer that one may have asked for."""
        self.histories.drop([user_id])
        self._answers.clear()

    # --- questions -------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """From memory where nothing has changed since the same request was last answered."""
        begun = time.perf_counter()
        key = self._key(request)
        kept = self._answers.get(key)
        if kept is not None:
            spent = _milliseconds(queue=0.0, memory=time.perf_counter() - begun)
            return replace(kept, served=replace(kept.served, cached=True, milliseconds=spent))
        if key in self._under_way:
            return await asyncio.shield(self._under_way[key])
        future = self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            answer = await self.answer(request)
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # nobody else may have waited
            raise
        finally:
            del self._under_way[key]
        future.set_result(answer)
        # An answer from further down the ladder is not kept: the next may be better.
        if answer.served.variant == self.model.variants[0]:
            self._answers.keep(key, answer)
        return answer

    async def answer(self, request: RecommendRequest) -> RecommendAnswer:
        """Worked out now, whatever was answered before."""
        question = self._question(request.user_id, request.history, request.text)
        allow, deny = allowed(self.model, request.filters)
        question = replace(
            question,
            k=request.k,
            exclude_seen=request.exclude_seen,
            allow=allow,
            deny=deny,
            diversity=request.diversity,
            explain=request.explain,
        )
        done = await self._ask(question, request.deadline_ms)
        return self._told(done, request.text is not None)

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score."""
        row = self.model.items.row(request.item_id)
        question = replace(self._question(request.user_id, request.history, request.text), explain=True)
        done = await self._ask(lambda engine: explain_one(engine, question, row), None)
        answer = self._told(done, request.text is not None)
        return ExplainAnswer(item=answer.items[0], served=answer.served)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items that the model takes to be most alike."""
        row = self.model.items.row(item_id)
        return self._told(await self._ask(lambda engine: Found(engine.similar(row, k)), None), False)

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """The items whose texts lie nearest to words."""
        if self.model.texts is None:
            raise ConfigError("this recommender reads no texts; search is not served")
        rows = np.empty(0, np.int64) if user_id is None else self._rows(user_id)
        done = await self._ask(lambda engine: search(self.model, engine, q, rows, k), None)
        return self._told(done, False)

    async def _ask(self, work: Work, deadline_ms: float | None) -> Done:
        if self._dispatcher is None:
            raise StoreUnavailableError("the server is starting; ask again in a moment")
        return await self._dispatcher.submit(work, (deadline_ms or self._config.deadline_ms) / 1e3)

    def _question(self, user_id: str | None, history: list[str] | None, text: str | None) -> Question:
        """Who asks.

        Raises:
            ConfigError: nobody was named, or a user beside a history.
        """
        if user_id is not None and history is not None:
            raise ConfigError("give either user_id or history; a known user's history is known here")
        if text is not None and not self.model.best.reads_texts:
            raise ConfigError("this recommender reads no texts; leave the text out")
        if user_id is None and history is None and text is None:
            raise ConfigError("say for whom: user_id, history or text")
        if user_id is None:
            known = self.model.items.known_rows(history or ())
            return Question(known[-self._config.history_length :], None, text, 1)
        state = self.histories.of(user_id)
        return Question(self.model.items.current(state.rows), state.profile, text, 1)

    def _rows(self, user_id: str) -> NDArray[np.int64]:
        return self.model.items.current(self.histories.of(user_id).rows)

    def _told(self, done: Done, has_text: bool) -> RecommendAnswer:
        begun = time.perf_counter()
        items = listed(done.result, self.model.items, has_text)
        named = time.perf_counter() - begun
        milliseconds = _milliseconds(queue=done.queued_s, engine=done.worked_s, names=named)
        served = Served(model=self.version, variant=done.variant, backend=done.backend, milliseconds=milliseconds)
        return RecommendAnswer(items=items, served=served)

    def _key(self, request: RecommendRequest) -> Key:
        """Equal for requests that have the same answer."""
        version = 0 if request.user_id is None else self.histories.of(request.user_id).version
        return self.model.items.version, version, _encode(request)


def _milliseconds(**seconds: float) -> dict[str, float]:
    """By component, and in total."""
    seconds["total"] = sum(seconds.values())
    return {name: round(one * 1e3, 3) for name, one in seconds.items()}
