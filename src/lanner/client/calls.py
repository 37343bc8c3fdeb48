"""What each operation sends, and the message that its answer is: one function an operation, for both clients."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec

from lanner.errors import RequestError
from lanner.serving.messages import (
    Alive,
    Changed,
    Event,
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

A = TypeVar("A")


@dataclass(frozen=True)
class Call(Generic[A]):
    """One request, and the message that its answer is; ``str`` is plain text."""

    method: str
    path: str
    answer: type[A]
    query: dict[str, str] = field(default_factory=dict)
    body: msgspec.Struct | None = None
    takes: frozenset[int] = frozenset({200})
    """Statuses that carry the answer."""


def recommend(request: RecommendRequest) -> Call[RecommendAnswer]:
    """For a known or an anonymous user."""
    return Call("POST", "/v1/recommend", RecommendAnswer, body=request)


def explain(request: ExplainRequest) -> Call[ExplainAnswer]:
    """The reasons for one score."""
    return Call("POST", "/v1/explain", ExplainAnswer, body=request)


def add_events(events: Sequence[Event]) -> Call[EventsAnswer]:
    """Events without a key get one: sent again, they are stored once."""
    keyed = [event if event.key else msgspec.structs.replace(event, key=uuid.uuid4().hex) for event in events]
    return Call("POST", "/v1/events", EventsAnswer, body=EventBatch(events=keyed))


def put_item(item_id: str, item: Item) -> Call[Changed]:
    """New or not."""
    return Call("PUT", f"/v1/items/{_segment(item_id)}", Changed, body=item)


def delete_item(item_id: str) -> Call[Changed]:
    """Known or not."""
    return Call("DELETE", f"/v1/items/{_segment(item_id)}", Changed)


def similar_items(item_id: str, k: int) -> Call[RecommendAnswer]:
    """Nearest first."""
    return Call("GET", f"/v1/items/{_segment(item_id)}/similar", RecommendAnswer, {"k": str(k)})


def put_user(user_id: str, user: User) -> Call[Changed]:
    """New or not."""
    return Call("PUT", f"/v1/users/{_segment(user_id)}", Changed, body=user)


def delete_user(user_id: str) -> Call[Changed]:
    """Known or not."""
    return Call("DELETE", f"/v1/users/{_segment(user_id)}", Changed)


def search(q: str, k: int, user_id: str | None) -> Call[RecommendAnswer]:
    """By a query in words."""
    query = {"q": q, "k": str(k)} | ({} if user_id is None else {"user_id": user_id})
    return Call("GET", "/v1/search", RecommendAnswer, query)


STATUS = Call("GET", "/v1/status", Status)
LIVE = Call("GET", "/health/live", Alive)
READY = Call("GET", "/health/ready", Health, takes=frozenset({200, 503}))
METRICS = Call("GET", "/metrics", str)


def _segment(id: str) -> str:
    """An id as a segment of a path; one of dots alone would mean the parent folder."""
    if not id:
        raise RequestError("an id is empty; give 1 to 256 characters")
    return quote(id, safe="") if id.strip(".") else id.replace(".", "%2E")
