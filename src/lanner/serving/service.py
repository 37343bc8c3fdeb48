"""The service behind the HTTP API in one worker process: served deployments, the store, and background jobs.

A request leases the deployment of its alias until it is answered, so that a new version can be swapped in meanwhile.
An event is acknowledged once it is on disk and the shared generation counter has been bumped; a worker compares the
generation before every answer, so later answers of all workers include the event. The store is never read on the
event loop.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
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
"""Seconds between counts of the store's contents, each a full scan."""
_SYNC_SECONDS = 0.01
"""Polling interval of the generation in an idle worker, in seconds; item writes wait for it."""
_RETRY_SECONDS = 5.0
"""Seconds between attempts to read an unavailable store."""
_WORKERS_APPLY_SECONDS = 30.0
"""Seconds an item write waits for the other workers."""
_MAX_ITEM_WRITES = 32
"""Maximum number of pending item writes; each may encode a text."""
_READ_SECONDS = 2.0
"""Timeout of a store read, in seconds."""
_log = logging.getLogger(__name__)
Response = TypeVar("Response", bound=Answer)
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
        """sync: shared by the workers of one server; None: this is the only worker.

        Raises:
            ConfigError: an experiment arm that is not an alias, or a share outside 0 … 1.
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
        self._sync_lock, self._reader = asyncio.Lock(), ThreadPoolExecutor(1, "store-changes")
        self._checking: asyncio.Task[None] | None = None
        self._sequence, self._generation, self._items_generation, self._retry_at = 0, -1, -1, 0.0
        self._store_stats: dict[str, float] = {}

    # --- lifecycle -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open, verify and warm up the versions that the aliases name, then follow the aliases.

        Raises:
            LannerError: the champion cannot be served.
        """
        self._generation, self._items_generation = self._sync.generation, self._sync.items_generation
        self._sequence, _ = await asyncio.to_thread(self.store.changed_users, 0)
        await self._watcher.start()
        if self._sync.worker == 0:  # one listener per server: a bump reaches every worker
            self._stop_listening = await asyncio.to_thread(self.store.listen, self._sync.bump)
        self._applied()
        await self._sync_items()  # until now the other workers did not wait for this one
        self._experiments.start()
        self._repeat(alias_watcher.POLL_SECONDS, self._watcher.follow)
        self._repeat(_SYNC_SECONDS, self._sync_items)
        if self.config.watch_seconds:
            self._repeat(self.config.watch_seconds, self._watch_store)
            self._repeat(_COUNT_SECONDS, self._count)
        if self._retention.config.deletes and self._sync.worker == 0:
            self._repeat(self._retention.config.every_minutes * 60, self._delete_old)

    async def stop(self) -> None:
        """Finish pending requests and writes and close all resources."""
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

    # --- changes by other workers and servers ----------------------------------------------------------------------

    async def _sync_users(self) -> None:
        """Drop cached users that changed since the generation was last compared.

        While the store is unavailable, cached users are served and the store is retried at intervals.
        """
        async with self._sync_lock:
            if self._sync.generation != self._generation and time.monotonic() >= self._retry_at:
                try:
                    await self._read_changes()
                except StoreUnavailableError:
                    self._retry_at = time.monotonic() + _RETRY_SECONDS

    async def _read_changes(self) -> None:
        """Call with ``_sync_lock`` held."""
        generation = self._sync.generation  # before the read: later writes bump it again
        self._sequence, changed = await self._read(partial(self.store.changed_users, self._sequence))
        self._drop(changed)
        self._generation = generation

    async def _read(self, call: Callable[[], Done]) -> Done:
        """Read the store in its own thread.

        Raises:
            StoreUnavailableError: also if the store does not respond in time.
        """
        reading = asyncio.get_running_loop().run_in_executor(self._reader, call)
        try:
            async with asyncio.timeout(_READ_SECONDS):  # wait_for of Python 3.11 loses a cancellation (bpo-37658)
                return await reading
        except TimeoutError:
            raise StoreUnavailableError(f"the store did not respond within {_READ_SECONDS:g} s") from None

    def _drop(self, user_ids: Sequence[str] | None) -> None:
        """Drop cached histories of these users (None: all)."""
        for deployment in self._deployments.all():
            deployment.drop_users(user_ids)

    async def _sync_items(self) -> None:
        """Apply item changes written by other workers; users are synced on request."""
        generation = self._sync.items_generation
        if generation != self._items_generation:
            await self._catch_up()
            self._items_generation = generation

    async def _watch_store(self) -> None:
        """Apply changes written by other servers."""
        async with self._sync_lock:
            await self._read_changes()
        await self._catch_up()

    async def _catch_up(self) -> None:
        """Apply item changes in every deployment and notify the other workers."""
        await self._deployments.catch_up()
        self._applied()

    def _applied(self) -> int:
        """Publish the sequence number up to which all deployments have applied item changes."""
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
        """Ready once a champion is served; degraded while there are problems."""
        degraded = []
        if self._checking is None or self._checking.done():  # at most one check at a time, even if the store hangs
            self._checking = asyncio.create_task(asyncio.to_thread(self.store.check))
        await asyncio.wait([self._checking], timeout=_READ_SECONDS)
        if not self._checking.done() or self._checking.exception() is not None:
            degraded.append("store unavailable: uncached users are anonymous, and events are rejected")
        degraded += self._watcher.problems() + self._experiments.problems() + self._sync.problems()
        failed = max((one.ingestion.failed for one in self._deployments.all()), default=0)
        if failed:
            degraded.append(f"{failed} items could not be ingested; see the log")
        return Health(ready=self._deployments.serves(CHAMPION), degraded=degraded)

    async def status(self) -> Status:
        """Served versions and current performance, for the page."""
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
                example_users=await self._undeleted(champion.example_users),
                attributes=champion.attributes,
                reads_texts=champion.reads_texts,
                versions=self._deployments.versions(),
                shadow=self._experiments.shadow_figures(),
            )

    async def _undeleted(self, user_ids: Sequence[str]) -> list[str]:
        """The users that were not deleted; none while the store, which knows, is unavailable."""
        try:
            deleted = await self._read(partial(self.store.deleted_users, user_ids))
        except StoreUnavailableError:
            return []
        return [user_id for user_id in user_ids if user_id not in deleted]

    def state(self) -> State:
        """A snapshot for the metrics."""
        held, entries, slowness = Counter[str](), Counter[str](), dict[str, float]()
        accelerator = Counter[str]()
        failed = max((one.ingestion.failed for one in self._deployments.all()), default=0)
        for deployment in self._deployments.all():
            held.update(deployment.held_bytes())
            entries.update(deployment.held_entries())
            accelerator.update(deployment.accelerator_figures())
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
            accelerator=accelerator,
        )

    @property
    def _depth(self) -> int:
        return sum(deployment.batcher.depth for deployment in self._deployments.all())

    # --- requests --------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """Recommend items with the version of the user's experiment arm."""
        arm = self._experiments.arm(request.user_id)
        alias = self._alias(arm)
        started = time.monotonic()
        answer = await self._dispatch(
            alias, lambda deployment: deployment.recommend(request), request.user_id, request.deadline_ms
        )
        self._experiments.answered(request, answer, arm, alias, time.monotonic() - started)
        return answer

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Explain an item's score."""
        alias = self._alias(self._experiments.arm(request.user_id))
        return await self._dispatch(alias, lambda deployment: deployment.explain(request), request.user_id)

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The champion's top k items for a history of this item alone."""
        return await self._dispatch(CHAMPION, lambda deployment: deployment.similar(item_id, k))

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """Semantic search over item texts."""
        alias = self._alias(self._experiments.arm(user_id))
        return await self._dispatch(alias, lambda deployment: deployment.search(q, k, user_id), user_id)

    def _alias(self, arm: str | None) -> str:
        """The alias of an arm; the champion if the arm is not being served."""
        return arm if arm is not None and self._deployments.serves(arm) else CHAMPION

    async def _dispatch(
        self,
        alias: str,
        call: Callable[[Deployment], Awaitable[Response]],
        user_id: str | None = None,
        deadline_ms: float | None = None,
    ) -> Response:
        """Call a deployment that has all acknowledged changes of ``user_id``, and count the response."""
        started = time.monotonic()
        if user_id is not None and self._sync.generation != self._generation:
            await self._sync_users()
        try:
            with self._deployments.acquire(alias) as deployment:
                answer = await call(deployment)
        except OverloadedError:
            self._recent.refused(time.monotonic())
            raise
        now = time.monotonic()
        milliseconds = (now - started) * 1e3
        in_time = milliseconds <= (deadline_ms or self.config.deadline_ms)
        self._recent.answered(now, milliseconds, answer.served.variant, answer.served.backend, in_time)
        return answer

    async def _ask_challenger(self, request: RecommendRequest) -> list[str]:
        with self._deployments.acquire(CHALLENGER) as deployment:
            return [item.item_id for item in (await deployment.answer(request)).items]

    # --- writes ----------------------------------------------------------------------------------------------------

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; returns once they are on disk and visible to every later answer."""

        async def write() -> EventsAnswer:
            answer = await asyncio.wrap_future(self.store.appending(batch.events, time.time()))
            if answer.accepted:
                self._publish_change({event.user_id for event in batch.events})
            return answer

        return await self._shielded(write())

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Create or change an item; every worker can recommend it when this returns. See ``Item`` for what it keeps.

        Raises:
            RequestError: a served version cannot ingest it; it was not stored. OverloadedError: too many
            pending writes. Errors of the store.
        """
        for deployment in self._deployments.all():
            deployment.ingestion.check(item_id, item)
        known = self._is_known_item(item_id)

        def write() -> Changed:
            # Before other workers are notified, so that they reuse the encoded text.
            for deployment in self._deployments.all():
                deployment.ingestion.read_ahead(item_id, item)
            return self.store.put_item(item_id, item)

        changed = await self._shielded(self._write_item(write))
        return _with_existed(changed, known)

    async def delete_item(self, item_id: str) -> Changed:
        """Delete an item; no worker recommends it when this returns."""
        known = self._is_known_item(item_id)
        await self._shielded(self._write_item(lambda: self.store.delete_item(item_id)))
        return Changed(id=item_id, existed=known)

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a user's profile and friends."""

        async def write() -> Changed:
            changed = await asyncio.to_thread(self.store.put_user, user_id, user)
            self._publish_change({user_id})
            return changed

        return _with_existed(await self._shielded(write()), self._is_known_user(user_id))

    async def delete_user(self, user_id: str) -> Changed:
        """Erase a user everywhere: in the store, in memory, and in the data of the bundles."""

        async def write() -> Changed:
            deleted = (await asyncio.to_thread(self.store.read_user, user_id)).deleted
            await self._experiments.forget(user_id)
            changed = await asyncio.to_thread(self.store.delete_user, user_id)
            self._publish_change(None)
            return _with_existed(changed, self._is_known_user(user_id) and user_id not in deleted)

        return await self._shielded(write())

    def _publish_change(self, user_ids: Iterable[str] | None) -> None:
        """Publish a committed change of users (None: all) before it is acknowledged."""
        self._drop(None if user_ids is None else list(user_ids))
        self._sync.bump(items=False)

    async def _write_item(self, write: Callable[[], Changed]) -> Changed:
        if self._item_writes >= _MAX_ITEM_WRITES:
            raise OverloadedError("too many pending item writes; try again in a moment", 1.0)
        self._item_writes += 1
        try:
            changed = await asyncio.to_thread(write)
            self._sync.bump()
            await self._catch_up()
            applied, ends = self._applied(), time.monotonic() + _WORKERS_APPLY_SECONDS
            while not self._sync.all_applied(applied):
                if time.monotonic() > ends:
                    raise StoreUnavailableError("the item is stored, but a worker did not apply it in time")
                await asyncio.sleep(_SYNC_SECONDS / 2)
            return changed
        finally:
            self._item_writes -= 1

    async def _shielded(self, write: Coroutine[Any, Any, Done]) -> Done:
        """A write completes even if its caller is cancelled, so that memory never misses what was stored."""
        task = asyncio.create_task(write)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    def _is_known_user(self, user_id: str) -> bool:
        return any(user_id in deployment.dataset.users for deployment in self._deployments.all())

    def _is_known_item(self, item_id: str) -> bool:
        return any(item_id in deployment.catalog for deployment in self._deployments.all())


def _with_existed(changed: Changed, known: bool) -> Changed:
    """A user or item may be known from the bundle alone."""
    return msgspec.structs.replace(changed, existed=changed.existed or known)


async def _repeated(seconds: float, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a job periodically; a persistent failure is logged once."""
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
