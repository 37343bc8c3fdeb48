"""The interface between HTTP and the service: one method per operation, typed messages in and out."""

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
    """A snapshot of the service for the metrics. Names become labels: a fixed set, never ids."""

    queue_depth: int = 0
    """Requests waiting in the queue."""
    held_bytes: Mapping[str, float] = field(default_factory=dict)
    """Bytes in memory by content: models, histories, cached responses …"""
    held_entries: Mapping[str, float] = field(default_factory=dict)
    """Entries in memory by content: histories, cached responses …"""
    store: Mapping[str, float] = field(default_factory=dict)
    """Store statistics by name: events, items, users, seconds since the last write …"""
    experiments: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the experiment and of shadow traffic by name."""
    background: Mapping[str, float] = field(default_factory=dict)
    """Statistics of background jobs by name: events deleted, items that failed …"""
    slowness: Mapping[str, float] = field(default_factory=dict)
    """Batch latency relative to its calibrated value, by variant; the slowest deployment."""
    accelerator: Mapping[str, float] = field(default_factory=dict)
    """Statistics of the accelerator by name: requests answered and failed, cycles, predicted microseconds."""


class Service(Protocol):
    """Every method may raise a LannerError; ``responses.STATUS`` maps it to an HTTP status.

    Arguments satisfy the limits in ``messages``. Ids are any text of 1 to 256 characters without NUL.
    """

    async def start(self) -> None:
        """Open all resources. Requests arrive only after it has returned."""

    async def stop(self) -> None:
        """Finish pending requests and close all resources."""

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The top k items for a user, known or anonymous."""

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Explain an item's score for a user."""

    async def add_events(self, batch: EventBatch) -> EventsAnswer:
        """Store events; returns once they are on disk. Events with a known key are counted as duplicates."""

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Create or change an item; an empty title, text or attributes stay as they are known."""

    async def delete_item(self, item_id: str) -> Changed:
        """Delete an item; a missing one is not an error."""

    async def similar_items(self, item_id: str, k: int) -> RecommendAnswer:
        """The items most similar to an item."""

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Create or replace a user."""

    async def delete_user(self, user_id: str) -> Changed:
        """Delete a user and their events; a missing one is not an error."""

    async def search(self, q: str, k: int, user_id: str | None) -> RecommendAnswer:
        """Semantic search over item texts, personalised for a user if given."""

    async def status(self) -> Status:
        """Served versions and current performance; polled once a second by every open page, so it must be cheap."""

    async def health(self) -> Health:
        """Whether requests are served. Public: lines contain no paths and no addresses."""

    def state(self) -> State:
        """A snapshot for the metrics; called every few seconds, so it must be cheap."""
