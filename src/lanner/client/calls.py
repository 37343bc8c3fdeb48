"""The API operations, defined once for both clients: the request and the type of the response."""

import functools
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload
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

if TYPE_CHECKING:
    from lanner.client import AsyncClient, Client

A = TypeVar("A")
P = ParamSpec("P")


@dataclass(frozen=True)
class Call(Generic[A]):
    """One request and its response type; ``str`` is plain text."""

    method: str
    path: str
    answer: type[A]
    query: dict[str, str] = field(default_factory=dict)
    body: msgspec.Struct | None = None
    takes: frozenset[int] = frozenset({200})
    """Statuses whose body is a response of type ``answer``."""


class operation(Generic[P, A]):
    """Turns a method that describes a request into one that sends it; on ``AsyncClient`` it returns a coroutine."""

    def __init__(self, describe: Callable[Concatenate[Any, P], Call[A]]) -> None:
        self._describe = describe

    @overload
    def __get__(self, client: None, owner: type) -> Callable[Concatenate[Any, P], Call[A]]: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, A]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, A]]: ...
    def __get__(self, client: "Client | AsyncClient | None", owner: type) -> Any:
        if client is None:
            return self._describe

        @functools.wraps(self._describe)
        def send(*args: P.args, **kwargs: P.kwargs) -> A | Coroutine[Any, Any, A]:
            return client._send(self._describe(client, *args, **kwargs))

        return send


class Operations:
    """The operations of both clients."""

    @operation
    def recommend(self, request: RecommendRequest) -> Call[RecommendAnswer]:
        """Recommend items for a user, or for an anonymous history, text or both."""
        return Call("POST", "/v1/recommend", RecommendAnswer, body=request)

    @operation
    def explain(self, request: ExplainRequest) -> Call[ExplainAnswer]:
        """Explain the score of an item for a user."""
        return Call("POST", "/v1/explain", ExplainAnswer, body=request)

    @operation
    def add_events(self, events: Sequence[Event]) -> Call[EventsAnswer]:
        """Store events; returns once they are on disk. Events without a key get a random one, so that retries
        do not store them twice."""
        keyed = [event if event.key else msgspec.structs.replace(event, key=uuid.uuid4().hex) for event in events]
        return Call("POST", "/v1/events", EventsAnswer, body=EventBatch(events=keyed))

    @operation
    def put_item(self, item_id: str, item: Item) -> Call[Changed]:
        """Create or change an item; an empty title, text or attributes stay as they are known."""
        return Call("PUT", f"/v1/items/{_segment(item_id)}", Changed, body=item)

    @operation
    def delete_item(self, item_id: str) -> Call[Changed]:
        """Delete an item."""
        return Call("DELETE", f"/v1/items/{_segment(item_id)}", Changed)

    @operation
    def similar_items(self, item_id: str, k: int = 10) -> Call[RecommendAnswer]:
        """Find similar items."""
        return Call("GET", f"/v1/items/{_segment(item_id)}/similar", RecommendAnswer, {"k": str(k)})

    @operation
    def put_user(self, user_id: str, user: User) -> Call[Changed]:
        """Create or replace a user."""
        return Call("PUT", f"/v1/users/{_segment(user_id)}", Changed, body=user)

    @operation
    def delete_user(self, user_id: str) -> Call[Changed]:
        """Delete a user and their events."""
        return Call("DELETE", f"/v1/users/{_segment(user_id)}", Changed)

    @operation
    def search(self, q: str, k: int = 10, user_id: str | None = None) -> Call[RecommendAnswer]:
        """Search items by meaning, personalised for a user if given."""
        query = {"q": q, "k": str(k)} | ({} if user_id is None else {"user_id": user_id})
        return Call("GET", "/v1/search", RecommendAnswer, query)

    @operation
    def status(self) -> Call[Status]:
        """Served versions, recent performance, and available filters."""
        return Call("GET", "/v1/status", Status)

    @operation
    def live(self) -> Call[Alive]:
        """Liveness probe."""
        return Call("GET", "/health/live", Alive)

    @operation
    def ready(self) -> Call[Health]:
        """Readiness probe."""
        return Call("GET", "/health/ready", Health, takes=frozenset({200, 503}))

    @operation
    def metrics(self) -> Call[str]:
        """Metrics in the Prometheus text format."""
        return Call("GET", "/metrics", str)


def _segment(id: str) -> str:
    """An id as a URL path segment; dots alone would be a relative path."""
    if not id:
        raise RequestError("empty id; expected 1 to 256 characters")
    return quote(id, safe="") if id.strip(".") else id.replace(".", "%2E")
