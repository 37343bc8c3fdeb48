"""The service behind HTTP in one worker process: the deployments that are served, the store, and the background jobs.

A request borrows the deployment of its alias until it is answered, so that another version may take its place
meanwhile. An event is acknowledged once the store has it on disk and the workers' generation has been bumped; before
every answer a worker compares the generation, so every later answer of any worker knows of the event. The store is
never read on the event loop.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from lanner.errors import LannerError, OverloadedError, StoreUnavailableError
from lanner.serving.deployment import Deployment, ModelConfig, ServiceConfig
from lanner.serving.http.contract import State
from lanner.serving.messages import (
    Answer,
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
from lanner.serving.rolling_stats import RollingStats
from lanner.serving.scheduler import SchedulerConfig
from lanner.serving.store import Store
from lanner.serving.store.retention import Retention, RetentionConfig
from lanner.serving.versions import alias_watcher
from lanner.serving.versions.alias_watcher import AliasWatcher, Versions
from lanner.serving.versions.experiments import Experiment, Experiments
from lanner.serving.versions.hot_swap import Deployments
from lanner.serving.versions.registry import CHALLENGER, CHAMPION
from lanner.serving.worker_sync import WorkerSync

_COUNT_SECONDS = 15.0
"""Between two counts of what the store holds, which read all of it."""
_LISTEN_SECONDS = 0.01
"""Between two looks at the generation of an idle worker: writes of items wait for it."""
_RETRY_SECONDS = 5.0
"""Between two attempts to read a store that does not answer."""
_WORKERS_APPLY_SECONDS = 30.0
"""How long a write of an item waits for the other workers."""
_MOST_ITEM_WRITES = 32
"""Writes of items that wait at a time; each may read a text."""
_READ_SECONDS = 2.0
"""How long a read of the store is waited for."""
_log = logging.getLogger(__name__)
Told = TypeVar("Told", bound=Answer)
Done = TypeVar("Done")


class LannerService:
    """Implements ``http.contract.Service``. All methods are called on the event loop."""

    def __init__(
        self,
        versions: Versions,
        store: Store,
        model: ModelConfig | None = None,
        config: ServiceConfig | None = None,
        *,
        scheduler: SchedulerConfig | None = None,
        sync: WorkerSync | None = None,
        experiment: Experiment | None = None,
        shadow_share: float = 0.0,
        retention: RetentionConfig | None = None,
    ) -> None:
        """sync: shared by the workers of one server; None: this is the only one.

        Raises:
            ConfigError: an arm of the experiment that is no alias, or a share outside 0 … 1.
        """
        self.store, self.model, self.config = store, model or ModelConfig(), config or ServiceConfig()
        self._scheduler, self._sync = scheduler, sync or WorkerSync(None)
        self._deployments: Deployments[Deployment] = Deployments()
        self._experiments = Experiments(store, experiment, shadow_share, self._ask_challenger)
        self._retention = Retention(store, retention or RetentionConfig())
        self._watcher = AliasWatcher(versions, self._deployments, self._open, self._experiments.aliases)
        self._tasks: list[asyncio.Task[None]] = []
        self._writes: set[asyncio.Task[Any]] = set()
        self._item_writes = 0
        self._stop_listening: Callable[[], None] = lambda: None
        self._began = time.monotonic()
        self._recent = RollingStats(self._began)
        self._hearing, self._reader = asyncio.Lock(), ThreadPoolExecutor(1, "store-changes")
        self._checking: asyncio.Task[None] | None = None
        self._sequence, self._generation, self._items_generation, self._retry_at = 0, -1, -1, 0.0
        self._store_stats: dict[str, float] = {}

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open, verify and warm up what the aliases name, and follow them from now on.

        Raises:
            LannerError: the champion cannot be served.
        """
        self._generation, self._items_generation = self._sync.generation, self._sync.items_generation
        self._sequence, _ = await asyncio.to_thread(self.store.changed_users, 0)
        await self._watcher.start()
        if self._sync.worker == 0:  # one listener a server: a bump reaches every worker
            self._stop_listening = await asyncio.to_thread(self.store.listen, self._sync.bump)
        self._applied()
        await self._listen()  # the others did not wait for this worker until now
        self._experiments.start()
        self._repeat(alias_watcher.POLL_SECONDS, self._watcher.follow)
        self._repeat(_LISTEN_SECONDS, self._listen)
        if self.config.watch_seconds:
            self._repeat(self.config.watch_seconds, self._watch_store)
            self._repeat(_COUNT_SECONDS, self._count)
        if self._retention.config.deletes and self._sync.worker == 0:
            self._repeat(self._retention.config.every_minutes * 60, self._delete_old)

    async def stop(self) -> None:
        """Let the last requests and writes end and close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._writes, return_exceptions=True)
        await self._experiments.close()
        await self._deployments.close()
        self._stop_listening()
        self._reader.shutdown(wait=False)
        await asyncio.to_thread(self.store.close)

    def _open(self, path: Path) -> Deployment:
        return Deployment.open(path, self.store, self.model, self.config, self._scheduler, self._sync.folder)

    def _repeat(self, seconds: float, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._tasks.append(asyncio.create_task(_repeated(seconds, job)))

    # --- what other workers and servers wrote ----------------------------------------------------------------------

    async def _hear(self) -> None:
        """Drop the users from memory that changed since the generation was last compared.

        While the store does not answer, nothing newer than memory can be known, and it is asked now and then.
        """
        async with self._hearing:
            if self._sync.generation != self._generation and time.monotonic() >= self._retry_at:
                try:
                    await self._read_changes()
                except StoreUnavailableError:
                    self._retry_at = time.monotonic() + _RETRY_SECONDS

    async def _read_changes(self) -> None:
        """With ``_hearing`` held."""
        generation = self._sync.generation  # before the read: what is written meanwhile has another one
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(self._reader, self.store.changed_users, self._sequence)
        try:
            self._sequence, changed = await asyncio.wait_for(reading, _READ_SECONDS)
        except TimeoutError:
            raise StoreUnavailableError(f"the store has not answered for {_READ_SECONDS:g} s") from None
        self._drop(changed)
        self._generation = generation

    def _drop(self, user_ids: Sequence[str] | None) -> None:
        """Hold nothing of these users, None: of anyone, until they next ask."""
        for deployment in self._deployments.all():
            deployment.drop_users(user_ids)

    async def _listen(self) -> None:
        """Apply changes of items that another worker wrote; of users it is enough to hear when one asks."""
        generation = self._sync.items_generation
        if generation != self._items_generation:
            await self._catch_up()
            self._items_generation = generation

    async def _watch_store(self) -> None:
        """Apply what other servers wrote."""
        async with self._hearing:
            await self._read_changes()
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Let every deployment take in the items that changed, and tell the other workers."""
        await self._deployments.catch_up()
        self._applied()

    def _applied(self) -> int:
        """Tell the other workers up to which sequence number all deployments have applied the changes of items."""
        sequence = min((one.ingestion.applied for one in self._deployments.all()), default=0)
        self._sync.applied(sequence)
        return sequence

    async def _count(self) -> None:
        self._store_stats = msgspec.structs.asdict(await asyncio.to_thread(self.store.stats))

    async def _delete_old(self) -> None:
        await asyncio.to_thread(self._retention.run)
        self._drop(None)
        self._sync.bump()

    # --- state -----------------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Ready once a champion is served; degraded while something does not work as it should."""
        degraded = []
        if self._checking is None or self._checking.done():  # one at a time, however often a store that hangs is asked
            self._checking = asyncio.create_task(asyncio.to_thread(self.store.check))
        await asyncio.wait([self._checking], timeout=_READ_SECONDS)
        if not self._checking.done() or self._checking.exception() is not None:
            degraded.append("the store does not answer: users not in memory are anonymous, and events are rejected")
        degraded += self._watcher.problems() + self._experiments.problems() + self._sync.problems()
        failed = max((one.ingestion.failed for one in self._deployments.all()), default=0)
        if failed:
            degraded.append(f"{failed} items of the store cannot be served; see the log")
        return Health(ready=self._deployments.serves(CHAMPION), degraded=degraded)

    async def status(self) -> Status:
        """What is served and how it performs, for the page."""
        with self._deployments.acquire(CHAMPION) as champion:
            return Status(
                time=time.time(),
                up_s=time.monotonic() - self._began,
                model=champion.version,
                variants=list(champion.variants),
                backends=list(champion.backends),
                recent=self._recent.figures(time.monotonic()),
                queue_depth=self._depth,
                num_items=len(champion.catalog),
                num_users=champion.dataset.num_users,
                example_users=champion.example_users,
                attributes=champion.attributes,
                reads_texts=champion.reads_texts,
                versions=self._deployments.versions(),
                shadow=self._experiments.shadow_figures(),
            )

    def state(self) -> State:
        """The state for the metrics."""
        held, entries, slowness = Counter[str](), Counter[str](), dict[str, float]()
        failed = max((one.ingestion.failed for one in self._deployments.all()), default=0)
        for deployment in self._deployments.all():
            held.update(deployment.held_bytes())
            entries.update(deployment.held_entries())
            for variant, ratio in deployment.slowness().items():
                slowness[variant] = max(ratio, slowness.get(variant, 0.0))
        return State(
            self._depth,
            held,
            entries,
            store=self._store_stats,
            experiments=self._experiments.figures(),
            background={**self._retention.figures(), "items_failed": failed},
            slowness=slowness,
        )

    @property
    def _depth(self) -> int:
        return sum(deployment.batcher.depth for deployment in self._deployments.all())

    # --- questions -------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items, of the version of the user's arm."""
        arm = self._experiments.arm(request.user_id)
        alias = self._alias(arm)
        begun = time.monotonic()
        answer = await self._ask(
            alias, lambda deployment: deployment.recommend(request), request.user_id, request.deadline_ms
        )
        self._experiments.answered(request, answer, arm, alias, time.monotonic() - begun)
        return answer

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score."""
        alias = self._alias(self._experiments.arm(request.user_id))
        return await self._ask(alias, lambda deployment: deployment.explain(request), request.user_id)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items that the champion ranks highest for a user who knows this one alone."""
        return await self._ask(CHAMPION, lambda deployment: deployment.similar(item_id, k))

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """The items whose texts are nearest to a query."""
        alias = self._alias(self._experiments.arm(user_id))
        return await self._ask(alias, lambda deployment: deployment.search(q, k, user_id), user_id)

    def _alias(self, arm: str | None) -> str:
        """Users whose arm cannot be served are answered by the champion."""
        return arm if arm is not None and self._deployments.serves(arm) else CHAMPION

    async def _ask(
        self,
        alias: str,
        question: Callable[[Deployment], Awaitable[Told]],
        user_id: str | None = None,
        deadline_ms: float | None = None,
    ) -> Told:
        """Ask a deployment that knows of all that was acknowledged of ``user_id``, and count the answer."""
        begun = time.monotonic()
        if user_id is not None and self._sync.generation != self._generation:
            await self._hear()
        try:
            with self._deployments.acquire(alias) as deployment:
                answer = await question(deployment)
        except OverloadedError:
            self._recent.refused(time.monotonic())
            raise
        now = time.monotonic()
        milliseconds = (now - begun) * 1e3
        in_time = milliseconds <= (deadline_ms or self.config.deadline_ms)
        self._recent.answered(now, milliseconds, answer.served.variant, answer.served.backend, in_time)
        return answer

    async def _ask_challenger(self, request: RecommendRequest) -> list[str]:
        with self._deployments.acquire(CHALLENGER) as deployment:
            return [item.item_id for item in (await deployment.answer(request)).items]

    # --- changes ---------------------------------------------------------------------------------------------------

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; returns once they are on disk and every later answer knows of them."""

        async def write() -> EventsAnswer:
            answer = await asyncio.wrap_future(self.store.appending(batch.events, time.time()))
            if answer.accepted:
                self._changed({event.user_id for event in batch.events})
            return answer

        return await self._finished(write())

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item; it can be recommended by every worker when this returns.

        Raises:
            RequestError: a version that is served could not take it in; it was not stored. OverloadedError: too many
            writes wait. What the store raises.
        """
        for deployment in self._deployments.all():
            deployment.ingestion.check(item_id, item)
        known = self._in_a_catalog(item_id)

        def write() -> Changed:
            # Before other workers hear of the item, so that none of them reads its text once more.
            for deployment in self._deployments.all():
                deployment.ingestion.read_ahead(item)
            return self.store.put_item(item_id, item)

        changed = await self._finished(self._write_item(write))
        return _existed(changed, known)

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item; no worker recommends it when this returns."""
        known = self._in_a_catalog(item_id)
        await self._finished(self._write_item(lambda: self.store.delete_item(item_id)))
        return Changed(id=item_id, existed=known)

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a profile and friends."""

        async def write() -> Changed:
            changed = await asyncio.to_thread(self.store.put_user, user_id, user)
            self._changed({user_id})
            return changed

        return _existed(await self._finished(write()), self._in_a_bundle(user_id))

    async def delete_user(self, user_id: str) -> Changed:
        """Forget a person everywhere: in the store, in memory, and in what the bundles know."""

        async def write() -> Changed:
            deleted = (await asyncio.to_thread(self.store.read_user, user_id)).deleted
            await self._experiments.forget(user_id)
            changed = await asyncio.to_thread(self.store.delete_user, user_id)
            self._changed(None)
            return _existed(changed, self._in_a_bundle(user_id) and user_id not in deleted)

        return await self._finished(write())

    def _changed(self, user_ids: Iterable[str] | None) -> None:
        """What the store has just committed of users, None: of anyone, before it is acknowledged."""
        self._drop(None if user_ids is None else list(user_ids))
        self._sync.bump(items=False)

    async def _write_item(self, write: Callable[[], Changed]) -> Changed:
        if self._item_writes >= _MOST_ITEM_WRITES:
            raise OverloadedError("too many items are being written; send this one again in a moment", 1.0)
        self._item_writes += 1
        try:
            changed = await asyncio.to_thread(write)
            self._sync.bump()
            await self._catch_up()
            applied, ends = self._applied(), time.monotonic() + _WORKERS_APPLY_SECONDS
            while not self._sync.all_applied(applied):
                if time.monotonic() > ends:
                    raise StoreUnavailableError("the item is stored, but a worker does not apply it")
                await asyncio.sleep(_LISTEN_SECONDS / 2)
            return changed
        finally:
            self._item_writes -= 1

    async def _finished(self, write: Coroutine[Any, Any, Done]) -> Done:
        """A write ends whether or not its caller waits, so that what is stored is never unknown to memory."""
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    def _in_a_bundle(self, user_id: str) -> bool:
        return any(user_id in deployment.dataset.users for deployment in self._deployments.all())

    def _in_a_catalog(self, item_id: str) -> bool:
        return any(item_id in deployment.catalog for deployment in self._deployments.all())


def _existed(changed: Changed, known: bool) -> Changed:
    """A person or an item may be known from the bundle alone."""
    return msgspec.structs.replace(changed, existed=changed.existed or known)


async def _repeated(seconds: float, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """What fails now may succeed next time; a fault that stays is logged once."""
    logged = ""
    while True:
        try:
            await job()
        except Exception as error:
            if str(error) != logged:
                _log.error("background task failed: %s", error, exc_info=not isinstance(error, LannerError))
            logged = str(error)
        else:
            logged = ""
        await asyncio.sleep(seconds)
