"""The route table: routing, argument validation and the OpenAPI document derive from it."""

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
    StoredId,
    User,
)

REQUIRED: Any = object()
"""Default of a required parameter."""


@dataclass(frozen=True)
class Parameter:
    """A path or query parameter. kind: a type for msgspec."""

    name: str
    kind: Any
    description: str
    default: Any = REQUIRED


@dataclass(frozen=True)
class Route:
    """One operation, called with the path parameters, then the query parameters, then the body."""

    method: str
    path: str
    operation: str
    role: Role | None
    """Minimum role; None: public."""
    answer: Any
    """The response message; ``str`` is plain text."""
    summary: str
    body: Any = None
    in_path: tuple[Parameter, ...] = ()
    """In path order, written ``{name}`` there."""
    in_query: tuple[Parameter, ...] = ()


ITEM_ID = Parameter("item_id", Id, "Item id, percent-encoded.")
USER_ID = Parameter("user_id", Id, "User id, percent-encoded.")
STORED_ITEM_ID, STORED_USER_ID = (Parameter(one.name, StoredId, one.description) for one in (ITEM_ID, USER_ID))
K = Parameter("k", Number, "Maximum number of items.", 10)
Q = Parameter("q", Question, "Search query.")
FOR_USER = Parameter("user_id", Id, "Personalise the ranking for this user; by text similarity alone if absent.", None)
ITEM, USER = "/v1/items/{item_id}", "/v1/users/{user_id}"

# fmt: off
ROUTES = (
    Route("POST", "/v1/recommend", "recommend", "read", RecommendAnswer,
          "Recommend items for a user, or for an anonymous history, text or both.", body=RecommendRequest),
    Route("POST", "/v1/explain", "explain", "read", ExplainAnswer,
          "Explain the score of an item for a user.", body=ExplainRequest),
    Route("POST", "/v1/events", "add_events", "write", EventsAnswer,
          "Store events. Returns once they are on disk; event keys make retries idempotent.", body=EventBatch),
    Route("PUT", ITEM, "put_item", "write", Changed,
          "Create or change an item. A title, text or attributes that are empty or omitted stay as they are known.",
          body=Item, in_path=(ITEM_ID,)),
    Route("DELETE", ITEM, "delete_item", "admin", Changed, "Delete an item.", in_path=(STORED_ITEM_ID,)),
    Route("GET", ITEM + "/similar", "similar_items", "read", RecommendAnswer,
          "Find similar items.", in_path=(ITEM_ID,), in_query=(K,)),
    Route("PUT", USER, "put_user", "write", Changed, "Create or replace a user.", body=User, in_path=(USER_ID,)),
    Route("DELETE", USER, "delete_user", "admin", Changed, "Delete a user and their events.",
          in_path=(STORED_USER_ID,)),
    Route("GET", "/v1/search", "search", "read", RecommendAnswer,
          "Search items by meaning (semantic search).", in_query=(Q, K, FOR_USER)),
    Route("GET", "/v1/status", "status", "read", Status,
          "Served versions, recent performance, and available filters."),
    Route("GET", "/health/live", "live", None, Alive, "Liveness probe."),
    Route("GET", "/health/ready", "ready", None, Health, "Readiness probe; 503 while not ready."),
    Route("GET", "/metrics", "metrics", "read", str, "Prometheus metrics."),
)
# fmt: on
