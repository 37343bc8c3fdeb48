"""The service behind the HTTP shell: the versions that are served now, one store, and what lies between them.

A request borrows the version of its alias and holds it until it is answered, so that another may take its place
meanwhile. Everything but engine work, openings and writes runs on the event loop's thread. An event is acknowledged
once the store has it on disk, and every later answer knows of it.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lanner.data.interactions import Dataset
from lanner.errors import ConfigError, LannerError, OverloadedError, StoreUnavailableError
from lanner.serving.beside.crew import Crew
from lanner.serving.dispatcher import Occupied
from lanner.serving.histories import Histories
from lanner.serving.http.contract import State
from lanner.serving.measuring import asked_histories
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
    Status,
    User,
)
from lanner.serving.model import Indexed, ModelConfig, ServedModel
from lanner.serving.placing import Placing
from lanner.serving.recent import Recent
from lanner.serving.redis_entries import RedisConfig
from lanner.serving.served_version import MakePolicy, ServedVersion, ServiceConfig, ladder_policy
from lanner.serving.shared_histories import LOOK_SECONDS, SharedHistories
from lanner.serving.shelf import Shelf
from lanner.serving.store import Store
from lanner.serving.store.retention import Retention, RetentionConfig
from lanner.serving.versions import following
from lanner.serving.versions.experiment import Experiment
from lanner.serving.versions.following import Follower, Versions
from lanner.serving.versions.registry import CHALLENGER, CHAMPION
from lanner.serving.versions.swap import Live
from lanner.serving.versions.trials import Trials

_COUNT_SECONDS = 15.0
"""Between two counts of what the store holds, which read all of it."""
_log = logging.getLogger(__name__)
Told = TypeVar("Told", RecommendAnswer, ExplainAnswer)


class LannerService:
    """Answers of the versions that are served; what ``http.contract.Service`` asks for."""

    def __init__(
        self,
        versions: Versions,
        open_model: Callable[[Path, Indexed | None], ServedModel],
        store: Store,
        config: ServiceConfig | None = None,
        make_policy: MakePolicy = ladder_policy,
        experiment: Experiment | None = None,
        shadow_share: float = 0.0,
        retention: RetentionConfig | None = None,
        redis: RedisConfig | None = None,
    ) -> None:
        """Raises ConfigError where the experiment, the share or the address of Redis makes no sense."""
        self.store, self.config = store, config or ServiceConfig()
        self._open_model, self._make_policy = open_model, make_policy
        self._live: Live[ServedVersion] = Live()
        self._trials = Trials(store, experiment, shadow_share, self._ask_challenger)
        self._retention = Retention(store, retention or RetentionConfig())
        self._shared = (
            SharedHistories(redis, store, self.config.history_length, self.config.users_held, self._histories)
            if redis and redis.url
            else None
        )
        self._follower = Follower(versions, self._live, self._open, self._trials.aliases)
        self._loop: asyncio.AbstractEventLoop
        self._tasks: list[asyncio.Task[None]] = []
        self._placing = Placing(self._live.catch_up, self._busy)
        self._began = time.monotonic()
        self._recent = Recent(self._began)
        self._seen = 0
        self._store_stats: dict[str, float] = {}

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open, prove and warm up what the aliases name, and follow them from now on.

        Raises:
            LannerError: the champion cannot be served.
        """
        self._loop = asyncio.get_running_loop()
        self._seen, _ = await asyncio.to_thread(self.store.changed_users, 0)
        await asyncio.to_thread(self._follower.start)
        follow = partial(asyncio.to_thread, self._follower.follow)
        self._tasks.append(asyncio.create_task(_again_and_again(following.POLL_SECONDS, follow)))
        if self.config.watch_seconds:
            self._tasks.append(asyncio.create_task(_again_and_again(self.config.watch_seconds, self._hear)))
            self._tasks.append(asyncio.create_task(_again_and_again(_COUNT_SECONDS, self._count)))
        if self._shared is not None:
            await self._shared.look()
            self._tasks.append(asyncio.create_task(_again_and_again(LOOK_SECONDS, self._shared.look)))
        if self._retention.config.deletes:
            every = self._retention.config.every_minutes * 60
            self._tasks.append(asyncio.create_task(_again_and_again(every, self._delete_old)))

    async def stop(self) -> None:
        """Let the last requests end and close everything."""
        for task in self._tasks:
            task.cancel()
        if self._shared is not None:
            await self._shared.close()
        for close in (self._placing.close, self._trials.close, self._live.close, self.store.close):
            await asyncio.to_thread(close)

    def _open(self, path: Path) -> ServedVersion:
        # The processes start first: they import what they need while the model is opened.
        crew = Crew(self.config.processes, self._loop) if self.config.processes else None
        try:
            model = self._open_model(path, None if crew is None else partial(self._open_beside, crew, path))
        except BaseException:
            if crew is not None:
                crew.close()
            raise
        return ServedVersion(model, self.store, self.config, self._make_policy, self._loop, crew)

    def _open_beside(
        self, crew: Crew, path: Path, dataset: Dataset, variants: Sequence[str], config: ModelConfig, shelf: Shelf
    ) -> None:
        """While the rest of the model is opened here."""
        crew.open(path, variants, config.candidates, asked_histories(dataset, self.config.history_length), shelf)

    def _histories(self) -> list[Histories]:
        return [version.histories for version in self._live.models()]

    async def _read_anew(self, user_ids: list[str] | None) -> None:
        """Hold no longer what was read of these users, None: of all; others may have changed it."""
        for histories in self._histories():
            histories.drop(user_ids)
        if self._shared is not None:
            await self._shared.heard(user_ids)

    async def _hear(self) -> None:
        """Take in what other servers wrote."""
        self._seen, changed = await asyncio.to_thread(self.store.changed_users, self._seen)
        await self._read_anew(changed)
        await self._placing.catch_up()

    async def _count(self) -> None:
        self._store_stats = msgspec.structs.asdict(await asyncio.to_thread(self.store.stats))

    async def _delete_old(self) -> None:
        """Hold no longer in memory what the store has deleted, whichever server deleted it."""
        await asyncio.to_thread(self._retention.run)
        await self._read_anew(None)

    async def health(self) -> Health:
        """Ready once a champion is served; degraded while the store is away or a version cannot take its place."""
        degraded = []
        try:
            await asyncio.to_thread(self.store.check)
        except LannerError:
            degraded.append("the store does not answer: users not met lately are strangers, and events are refused")
        degraded += self._follower.problems() + self._trials.problems()
        degraded += self._shared.problems() if self._shared is not None else []
        return Health(ready=self._live.serves(CHAMPION), degraded=degraded)

    async def status(self) -> Status:
        """What answers and how it fares, for the page."""
        with self._live.acquire(CHAMPION) as champion:
            model = champion.model
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
                example_users=champion.example_users,
                attributes=champion.attributes,
                reads_texts=model.texts is not None,
                versions=self._live.versions(),
                shadow=self._trials.shadow_figures(),
            )

    def state(self) -> State:
        """What is held now."""
        held, entries, slowness = Counter[str](), Counter[str](), dict[str, float]()
        for version in self._live.models():
            held.update(version.held_bytes())
            entries.update(version.held_entries())
            for rung, ratio in version.slowness().items():
                slowness[rung] = max(ratio, slowness.get(rung, 0.0))
        beside = {**self._retention.figures(), **(self._shared.figures() if self._shared is not None else {})}
        return State(
            self._depth,
            held,
            entries,
            store=self._store_stats,
            trials=self._trials.figures(),
            beside=beside,
            slowness=slowness,
        )

    def occupied(self) -> Occupied:
        """How busy the champion is, which answers most requests; not at all while there is none."""
        if not self._live.serves(CHAMPION):
            return Occupied()
        with self._live.acquire(CHAMPION) as champion:
            return champion.occupied

    def _busy(self) -> float:
        """How much the loop works; called in any thread."""
        return max((version.busy for version in self._live.models()), default=0.0)

    @property
    def _depth(self) -> int:
        return sum(version.depth for version in self._live.models())

    # --- questions -------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items, of the version of the user's arm."""
        arm = self._trials.arm(request.user_id)
        alias = self._alias(arm)
        begun = time.monotonic()
        answer = await self._ask(
            alias, lambda version: version.recommend(request), request.user_id, request.deadline_ms
        )
        self._trials.answered(request, answer, arm, alias, time.monotonic() - begun)
        return answer

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score."""
        alias = self._alias(self._trials.arm(request.user_id))
        return await self._ask(alias, lambda version: version.explain(request), request.user_id)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items that the champion takes to be most alike."""
        return await self._ask(CHAMPION, lambda version: version.similar_items(item_id, k))

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """The items whose texts lie nearest to words."""
        alias = self._alias(self._trials.arm(user_id))
        return await self._ask(alias, lambda version: version.search(q, k, user_id), user_id)

    def _alias(self, arm: str | None) -> str:
        """Whose arm cannot be served is answered by the champion."""
        return arm if arm is not None and self._live.serves(arm) else CHAMPION

    async def _ask(
        self,
        alias: str,
        question: Callable[[ServedVersion], Awaitable[Told]],
        user_id: str | None = None,
        deadline_ms: float | None = None,
    ) -> Told:
        """Ask a version, and count what came of it. user_id: whose history it will read."""
        if not self._live.serves(alias):
            raise StoreUnavailableError("the server is starting or stopping; ask again in a moment")
        begun = time.monotonic()
        if self._shared is not None and user_id is not None:
            await self._shared.refresh(user_id)
        try:
            with self._live.acquire(alias) as version:
                answer = await question(version)
        except OverloadedError:
            self._recent.refused(time.monotonic())
            raise
        now, served = time.monotonic(), answer.served
        milliseconds = (now - begun) * 1e3
        in_time = milliseconds <= (deadline_ms or self.config.deadline_ms)
        self._recent.answered(now, milliseconds, served.variant, served.backend, in_time)
        return answer

    def _ask_challenger(self, request: RecommendRequest) -> list[str]:
        """What the challenger would have shown; waits, so it is for the shadow's thread alone."""
        return asyncio.run_coroutine_threadsafe(self._of_challenger(request), self._loop).result()

    async def _of_challenger(self, request: RecommendRequest) -> list[str]:
        with self._live.acquire(CHALLENGER) as version:
            return [item.item_id for item in (await version.answer(request)).items]

    # --- changes ---------------------------------------------------------------------------------------------------

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; returns once they are on disk."""
        answer = await asyncio.wrap_future(self.store.appending(batch.events, time.time()))
        for version in self._live.models():
            version.histories.happened(batch.events)
        if self._shared is not None:
            await self._shared.changed(event.user_id for event in batch.events)
        return answer

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item; it can be recommended when this returns.

        Raises:
            What ``Placing.queued`` and the store raise.
        """
        with self._live.acquire(CHAMPION) as champion:
            if champion.model.texts is None:
                raise ConfigError("this recommender reads no texts, so it cannot place an item that nobody met")
            known = item_id in champion.model.items
        with self._placing.queued():
            changed = await asyncio.to_thread(self.store.put_item, item_id, item)
            await self._placing.catch_up()
        return _existed(changed, known)

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item; it is not recommended any more when this returns."""
        with self._live.acquire(CHAMPION) as champion:
            known = item_id in champion.model.items
        await asyncio.to_thread(self.store.delete_item, item_id)
        await self._placing.catch_up()
        return Changed(id=item_id, existed=known)

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a profile and ties."""
        changed = await asyncio.to_thread(self.store.put_user, user_id, user)
        for version in self._live.models():
            version.histories.drop([user_id])
        if self._shared is not None:
            await self._shared.changed([user_id])
        return _existed(changed, self._in_a_bundle(user_id))

    async def delete_user(self, user_id: str) -> Changed:
        """Forget a person everywhere: in the store, in memory, and in what the bundles know."""
        known = self._in_a_bundle(user_id) and not await asyncio.to_thread(self.store.is_forgotten, user_id)
        await asyncio.to_thread(self._trials.forget, user_id)
        changed = await asyncio.to_thread(self.store.forget_user, user_id)
        for version in self._live.models():
            version.forget(user_id)
        if self._shared is not None:
            await self._shared.forget(user_id)
        return _existed(changed, known)

    def _in_a_bundle(self, user_id: str) -> bool:
        return any(user_id in version.model.dataset.users for version in self._live.models())


def _existed(changed: Changed, known: bool) -> Changed:
    """A person or an item may be known from the bundle alone."""
    return msgspec.structs.replace(changed, existed=changed.existed or known)


async def _again_and_again(seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Whatever fails now may succeed next time; a fault that stays is said once."""
    said = ""
    while True:
        try:
            await work()
        except Exception as error:
            if str(error) != said:
                _log.error("work beside the requests: %s", error, exc_info=not isinstance(error, LannerError))
            said = str(error)
        else:
            said = ""
        await asyncio.sleep(seconds)
