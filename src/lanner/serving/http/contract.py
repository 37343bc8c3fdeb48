"""The interface between HTTP and the service: one method an operation, typed messages in and out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

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


@dataclass(frozen=True)
class State:
    """The service's state now, for the metrics. Names become labels: a fixed few, never ids."""

    queue_depth: int = 0
    """Requests that wait."""
    held_bytes: Mapping[str, float] = field(default_factory=dict)
    """Bytes in memory by name: models, histories, answers …"""
    held_entries: Mapping[str, float] = field(default_factory=dict)
    """Entries in memory by name: histories, answers …"""
    store: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the store by name: events, items, users, seconds since the last write …"""
    experiments: Mapping[str, float] = field(default_factory=dict)
    """Figures of an experiment and of shadow traffic by name."""
    background: Mapping[str, float] = field(default_factory=dict)
    """Figures of background jobs by name: events deleted, items that failed …"""
    slowness: Mapping[str, float] = field(default_factory=dict)
    """Batch latency relative to its calibrated value, by variant: the worst deployment's."""


class Service(Protocol):
    """Every method may raise a LannerError; ``responses.STATUS`` says what the caller sees of it.

    Arguments have passed the bounds that ``messages`` writes down. Ids are any text of 1 to 256 characters without NUL.
    """

    async def start(self) -> None:
        """Open what is needed to answer. Requests come only after it has returned."""

    async def stop(self) -> None:
        """Let the last requests end and close everything."""

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items for a user, known or anonymous."""

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score for a user."""

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; returns once they are on disk. An event whose key is stored already is counted, not stored."""

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item, new or not."""

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item; one that is not there is no error."""

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items nearest to an item."""

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a user, new or not."""

    async def delete_user(self, user_id: str) -> Changed:
        """Remove a user with their events; one that is not there is no error."""

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """The items whose texts are nearest to a query, personalised for a user where one is named."""

    async def status(self) -> Status:
        """What is served and how it performs; asked once a second by every open page, so it must be cheap."""

    async def health(self) -> Health:
        """Whether requests are taken. Read by anyone: lines name no path and no address."""

    def state(self) -> State:
        """The state for the metrics; called every few seconds, so it must be cheap."""
