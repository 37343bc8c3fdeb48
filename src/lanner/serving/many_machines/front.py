"""The service of a process that answers nothing itself: requests go to replicas, and on to another where one dies.

Every operation may be repeated: questions change nothing, writes of items and users write the same again, and an event
without a key is given one here, so that it is stored once.
"""

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from lanner.errors import OverloadedError, StoreUnavailableError
from lanner.serving.http.contract import State
from lanner.serving.many_machines import cluster
from lanner.serving.many_machines.config import RayConfig
from lanner.serving.many_machines.replica import Refused
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
from lanner.serving.recent import Recent

_ATTEMPTS = 4
_PAUSE_S = 0.05
"""Before a request is asked again: Ray needs a moment to see that a process has ended."""
_LONGEST_S = 10.0
"""For an answer, whatever happens to replicas meanwhile."""
_LOOK_S = 5.0
"""Between two looks at what replicas hold."""
Answer = TypeVar("Answer")
Told = TypeVar("Told", RecommendAnswer, ExplainAnswer)
_log = logging.getLogger(__name__)


class Replicas:
    """What ``http.contract.Service`` asks for, of whichever replica has less work."""

    def __init__(self, config: RayConfig, settings: bytes, deadline_ms: float) -> None:
        """settings: of each replica. deadline_ms: of a request that names none."""
        self._config, self._settings, self._deadline_ms = config, settings, deadline_ms
        self._handles: Sequence[Any] = ()
        """One a shard."""
        self._states: Sequence[State] = ()
        self._looking: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        self._recent = Recent(self._began)
        self._asked_again = 0

    # --- life ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join or start the cluster and wait until every replica answers.

        Raises:
            ConfigError: no cluster at that address. RuntimeError: a replica does not start.
        """
        await asyncio.to_thread(cluster.connect, self._config)
        cluster.take_back_sigterm()
        try:
            self._handles = await asyncio.to_thread(cluster.deploy, self._config, self._settings)
            await self._look()
        except BaseException:
            await asyncio.to_thread(cluster.leave, self._config)
            raise
        self._looking = asyncio.create_task(self._look_now_and_then())

    async def stop(self) -> None:
        """Leave the cluster; one of this machine alone ends."""
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*(handle.shutdown_async() for handle in self._handles))
        await asyncio.to_thread(cluster.leave, self._config)

    async def _look_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except Exception as error:
                _log.error("replicas do not tell what they hold: %s", error)

    async def _look(self) -> None:
        """What every replica holds; one that does not tell counts as none."""
        asked = [handle.broadcast("state") for handle in self._handles]
        told = await asyncio.gather(
            *(one.results_async(timeout_s=_LOOK_S, return_exceptions=True) for one in asked),
        )
        self._states = [one for states in told for one in states if isinstance(one, State)]

    async def health(self) -> Health:
        """Ready where a replica of each shard is; degraded where there are fewer than there should be."""
        try:
            told = await self._ask_each(Health, "health")
        except (OverloadedError, StoreUnavailableError):
            return Health(ready=False, degraded=["no replica answers"])
        running, wanted = len(self._states), self._config.replicas * self._config.shards
        fewer = [f"{running} of {wanted} replicas answer"] if running < wanted else []
        degraded = list(dict.fromkeys(line for health in told for line in health.degraded))
        return Health(ready=all(health.ready for health in told), degraded=degraded + fewer)

    async def status(self) -> Status:
        """The catalogue as a replica sees it, and the figures of all of them."""
        now = time.monotonic()
        status = await self._ask(Status, "status")
        return msgspec.structs.replace(
            status, up_s=now - self._began, recent=self._recent.figures(now), queue_depth=self.state().queue_depth
        )

    def state(self) -> State:
        """What all replicas held together at the last look; of the store and of trials the most that one knows."""
        held, entries, beside = Counter[str](), Counter[str](), Counter[str]()
        for state in self._states:
            held.update(state.held_bytes)
            entries.update(state.held_entries)
            beside.update(state.beside)
        return State(
            sum(state.queue_depth for state in self._states),
            held,
            entries,
            store=_most([one.store for one in self._states]),
            trials=_most([one.trials for one in self._states]),
            replicas={"answering": float(len(self._states)), "asked_again": float(self._asked_again)},
            beside=beside,
            slowness=_most([one.slowness for one in self._states]),
        )

    # --- questions -------------------------------------------------------------------------------------------------

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items."""
        return await self._told(self._ask(RecommendAnswer, "recommend", request), request.deadline_ms)

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score."""
        return await self._told(self._ask(ExplainAnswer, "explain", request))

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items most alike."""
        return await self._told(self._ask(RecommendAnswer, "similar_items", item_id, k))

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """The items whose texts lie nearest to words."""
        return await self._told(self._ask(RecommendAnswer, "search", q, k, user_id))

    async def _told(self, asked: Awaitable[Told], within_ms: float | None = None) -> Told:
        """An answer, counted."""
        begun = time.monotonic()
        try:
            answer = await asked
        except OverloadedError:
            self._recent.refused(time.monotonic())
            raise
        now, served = time.monotonic(), answer.served
        milliseconds = (now - begun) * 1e3
        in_time = milliseconds <= (within_ms or self._deadline_ms)
        self._recent.answered(now, milliseconds, served.variant, served.backend, in_time)
        return answer

    # --- changes ---------------------------------------------------------------------------------------------------

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; other replicas know of them once they have looked at the store again."""
        events = [
            event if event.key is not None else msgspec.structs.replace(event, key=secrets.token_hex(16))
            for event in batch.events
        ]
        return await self._ask(EventsAnswer, "add_events", EventBatch(events=events))

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item."""
        return await self._ask(Changed, "put_item", item_id, item)

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item."""
        return await self._ask(Changed, "delete_item", item_id)

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a profile and ties."""
        return await self._ask(Changed, "put_user", user_id, user)

    async def delete_user(self, user_id: str) -> Changed:
        """Forget a person."""
        return await self._ask(Changed, "delete_user", user_id)

    async def _ask_each(self, kind: type[Answer], operation: str, *arguments: Any) -> list[Answer]:
        """The answer of one replica of each shard; the first error of any is raised, see ``_ask``."""
        shards = range(len(self._handles))
        return await asyncio.gather(*(self._ask(kind, operation, *arguments, shard=shard) for shard in shards))

    async def _ask(self, kind: type[Answer], operation: str, *arguments: Any, shard: int | None = None) -> Answer:
        """One replica's answer. shard: None where any may answer.

        Raises:
            StoreUnavailableError: none answered in time. OverloadedError: too many wait for one. What a replica raises.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import BackPressureError

        handle = random.choice(self._handles) if shard is None else self._handles[shard]
        try:
            async with asyncio.timeout(_LONGEST_S):
                for attempt in range(_ATTEMPTS):
                    try:
                        answer = await handle.ask.remote(operation, *arguments)
                        break
                    except RayActorError:
                        if attempt == _ATTEMPTS - 1:
                            raise
                        self._asked_again += 1
                        await asyncio.sleep(_PAUSE_S)
        except BackPressureError:
            raise OverloadedError("too many wait for a replica; ask again later", 1.0) from None
        except (TimeoutError, RayActorError) as error:
            raise StoreUnavailableError(f"no replica answered within {_LONGEST_S:g} s; ask again") from error
        if isinstance(answer, Refused):
            raise answer.error()
        assert isinstance(answer, kind), f"{operation} gave {type(answer).__name__}"
        return answer


def _most(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The largest value of each name, as ``http.metrics`` joins those of several workers."""
    return {name: max(one[name] for one in told if name in one) for name in {name for one in told for name in one}}
