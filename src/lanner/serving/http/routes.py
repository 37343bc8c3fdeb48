"""Every operation of the API in one table: routing, the checks of arguments and the OpenAPI document come from it."""

from dataclasses import dataclass
from typing import Any

from lanner.serving.http.keys import Role
from lanner.serving.messages import (
    Alive,
    Changed,
    EventBatch,
    EventsAnswer,
    ExplainAnswer,
    ExplainRequest,
    Health,
    Id,
    Item,
    Number,
    Question,
    RecommendAnswer,
    RecommendRequest,
    Status,
    User,
)

REQUIRED: Any = object()
"""The default of a parameter that has none."""


@dataclass(frozen=True)
class Parameter:
    """A part of the address. kind: a type as msgspec reads it."""

    name: str
    kind: Any
    description: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Route:
    """One operation. It is called with the path's parameters, then the query's, then the body."""

    method: str
    path: str
    operation: str
    role: Role | None
    """The least role that may ask; None: anyone."""
    answer: Any
    """A message; ``str`` is plain text."""
    summary: str
    body: Any = None
    inside: tuple[Parameter, ...] = ()
    """Parameters of the path, in its order, written ``{name}`` there."""
    query: tuple[Parameter, ...] = ()


ITEM_ID = Parameter("item_id", Id, "The item, by its owner's id, percent-encoded.")
USER_ID = Parameter("user_id", Id, "The user, by their owner's id, percent-encoded.")
K = Parameter("k", Number, "At most this many items.", 10)
Q = Parameter("q", Question, "The query, in words.")
FOR_USER = Parameter(
    "user_id", Id, "The user for whom the items found are ranked; by the query alone where absent.", None
)
ITEM, USER = "/v1/items/{item_id}", "/v1/users/{user_id}"

# fmt: off
ROUTES = (
    Route("POST", "/v1/recommend", "recommend", "read", RecommendAnswer,
          "The best items for a known user, or an anonymous one by a history, a text, or both.", body=RecommendRequest),
    Route("POST", "/v1/explain", "explain", "read", ExplainAnswer,
          "Why an item has its score for a user.", body=ExplainRequest),
    Route("POST", "/v1/events", "add_events", "write", EventsAnswer,
          "Store events; acknowledged once they are on disk. Keys make retries safe.", body=EventBatch),
    Route("PUT", ITEM, "put_item", "write", Changed, "Write an item, new or not.", body=Item, inside=(ITEM_ID,)),
    Route("DELETE", ITEM, "delete_item", "admin", Changed, "Remove an item.", inside=(ITEM_ID,)),
    Route("GET", ITEM + "/similar", "similar_items", "read", RecommendAnswer,
          "The items nearest to an item.", inside=(ITEM_ID,), query=(K,)),
    Route("PUT", USER, "put_user", "write", Changed, "Write a user, new or not.", body=User, inside=(USER_ID,)),
    Route("DELETE", USER, "delete_user", "admin", Changed, "Remove a user with their events.", inside=(USER_ID,)),
    Route("GET", "/v1/search", "search", "read", RecommendAnswer,
          "The items whose texts are nearest to a query.", query=(Q, K, FOR_USER)),
    Route("GET", "/v1/status", "status", "read", Status,
          "What is served, how it performed over the last seconds, and what can be asked."),
    Route("GET", "/health/live", "live", None, Alive, "Whether the process is alive."),
    Route("GET", "/health/ready", "ready", None, Health, "Whether requests are answered; 503 where they are not."),
    Route("GET", "/metrics", "metrics", "read", str, "Metrics for Prometheus."),
)
# fmt: on
