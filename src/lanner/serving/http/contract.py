"""What the HTTP shell asks of the service behind it: one method an operation, typed messages in and out."""

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
    """What a service holds at this moment, for the metrics. Names become labels: a fixed few, never ids."""

    queue_depth: int = 0
    """Requests that wait."""
    held_bytes: Mapping[str, float] = field(default_factory=dict)
    """Bytes in memory by name: indexes, rungs, histories …"""
    held_entries: Mapping[str, float] = field(default_factory=dict)
    """What is kept by the request or the user, by name: answers, histories …"""
    store: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the store by name: events, items, users, seconds since the last write …"""
    trials: Mapping[str, float] = field(default_factory=dict)
    """Figures of an experiment and of shadow traffic by name."""
    replicas: Mapping[str, float] = field(default_factory=dict)
    """Of a service that asks others: how many answer, and how often a request was asked again because one died."""
    beside: Mapping[str, float] = field(default_factory=dict)
    """Figures of work beside the requests by name: events deleted …"""
    slowness: Mapping[str, float] = field(default_factory=dict)
    """How many times as long a batch takes as when its version was opened, by variant and backend: the worst one."""


class Service(Protocol):
    """Every method may raise a LannerError; ``replies.STATUS`` says what the caller sees of it.

    Arguments have passed the bounds that ``messages`` writes down. Ids are any text of 1 to 256 characters without NUL.
    """

    async def start(self) -> None:
        """Open what is needed to answer; requests come only after it has returned."""

    async def stop(self) -> None:
        """Let the last requests end and close everything."""

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items for a user or a stranger."""

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
        """The items nearest to words, for one user where named."""

    async def status(self) -> Status:
        """What answers and how it fares; asked once a second by every open page, so it must be cheap."""

    async def health(self) -> Health:
        """Whether requests are taken. Read by anyone: lines name no path and no address."""

    def state(self) -> State:
        """What is held now; called every few seconds, so it must be cheap."""
