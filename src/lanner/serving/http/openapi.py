"""Generates the OpenAPI 3.1 document from the route table and the messages."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from lanner.serving.http.routes import REQUIRED, ROUTES, Parameter, Route
from lanner.serving.messages import (
    Changed,
    ErrorAnswer,
    Event,
    EventBatch,
    EventsAnswer,
    ExplainAnswer,
    ExplainRequest,
    Filters,
    Health,
    Item,
    Reason,
    RecentFigures,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    Served,
    Status,
    User,
)

_SERVED = Served(model="2026-01", variant="int8", backend="openvino", milliseconds={"total": 1.4, "queue": 0.1})
_BEST = RecommendedItem(item_id="m17", title="The Third Man", score=2.5, rank=1)
_REASONS = [Reason(kind="history", name="Casablanca", value=1.75), Reason(kind="popularity", name="", value=0.75)]
_WHY = msgspec.structs.replace(_BEST, reasons=_REASONS, because="Because you watched Casablanca.")
_RECENT = RecentFigures(
    window_s=5.0,
    requests_per_s=420.0,
    goodput_per_s=408.2,
    refused_per_s=10.4,
    p50_ms=1.3,
    p99_ms=4.8,
    by_variant={"full": 0.25, "int8": 0.75},
    by_backend={"openvino": 1.0},
)
_STATUS = Status(
    time=1767225600.0,
    up_s=3600.0,
    model="2026-01",
    variants=["full", "int8", "popularity"],
    backends=["openvino"],
    recent=_RECENT,
    queue_depth=2,
    num_items=9742,
    num_users=610,
    example_users=["ada", "bob"],
    attributes={"genre": ["Drama", "Noir"]},
    reads_texts=True,
)
_EXAMPLES: tuple[msgspec.Struct, ...] = (
    RecommendRequest(user_id="ada", k=5, filters=Filters(attributes={"genre": ["Drama", "Noir"]})),
    RecommendAnswer(items=[_BEST], served=_SERVED),
    ExplainRequest(user_id="ada", item_id="m17"),
    ExplainAnswer(item=_WHY, served=_SERVED),
    EventBatch(events=[Event(user_id="ada", item_id="m17", timestamp=1767225600.0, key="order-81")]),
    EventsAnswer(accepted=1, duplicates=0),
    Item(title="The Third Man", text="A writer looks for a friend in Vienna.", attributes={"genre": ["Noir"]}),
    User(profile="Likes old films.", ties=["bob"]),
    Changed(id="m17", existed=True),
    Health(ready=True),
    _STATUS,
)
_ERRORS = {
    "400": "Malformed request; the message names the field and the value received.",
    "401": "Missing or unknown API key.",
    "403": "The key's role does not allow this operation.",
    "404": "Unknown id.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "Content-Type is not application/json, or the body is compressed.",
    "421": "The Host header is not allowed.",
    "429": "Rate limit exceeded or overloaded; retry after the seconds in Retry-After.",
    "500": "Internal error; the message has its number in the server's log.",
    "503": "Temporarily unavailable; try again later.",
}
_REFERENCE = "#/components/schemas/{name}"


def document(guarded: bool) -> dict[str, Any]:
    """The whole document as JSON-compatible values. guarded: whether API keys are required."""
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, guarded)
    messages = {one for route in ROUTES for one in (route.body, route.answer) if one not in (None, str)}
    ordered = sorted(messages | {ErrorAnswer}, key=lambda one: str(one.__name__))
    _, schemas = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    key = {"type": "http", "scheme": "bearer", "description": "An API key, created with 'lanner keys add'."}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lanner",
            "version": _version(),
            "summary": "Recommendations, explanations, semantic search and event ingestion.",
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}] if guarded else [],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": key} if guarded else {},
            "responses": {status: _error(status, description) for status, description in _ERRORS.items()},
        },
    }


def _operation(route: Route, guarded: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "responses": {"200": {"description": "Success.", "content": _content(route.answer)}},
    }
    if route.in_path or route.in_query:
        operation["parameters"] = [_parameter(one, "path") for one in route.in_path]
        operation["parameters"] += [_parameter(one, "query") for one in route.in_query]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
    if route.role is None:
        operation["security"] = []
    elif guarded:
        operation["description"] = f"Requires an API key with role {route.role} or higher."
    references = {one: {"$ref": f"#/components/responses/{one}"} for one in _errors_of(route, guarded)}
    operation["responses"] |= references
    if route.operation == "ready":
        operation["responses"]["503"] = {"description": "Not ready.", "content": _content(Health)}
    return operation


def _errors_of(route: Route, guarded: bool) -> list[str]:
    """The error statuses of a route: body errors if it takes a body, key errors if keys are required."""
    of_bodies, of_keys, of_services = {"408", "413", "415"}, {"401", "403"}, {"404", "429", "503"}
    left_out = set() if route.body else of_bodies
    left_out |= set() if route.role and guarded else of_keys
    left_out |= set() if route.role else of_services
    return [status for status in _ERRORS if status not in left_out]


def _parameter(one: Parameter, place: str) -> dict[str, Any]:
    ((schema,), _) = msgspec.json.schema_components([one.kind])
    if one.default not in (REQUIRED, None):
        schema = {**schema, "default": one.default}
    required = one.default is REQUIRED
    return {"name": one.name, "in": place, "required": required, "description": one.description, "schema": schema}


def _content(message: Any) -> dict[str, Any]:
    if message is str:
        return {"text/plain": {"schema": {"type": "string"}}}
    content: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(name=message.__name__)}}
    example = next((one for one in _EXAMPLES if type(one) is message), None)
    if example is not None:
        content["example"] = msgspec.to_builtins(example)
    return {"application/json": content}


def _error(status: str, description: str) -> dict[str, Any]:
    reply: dict[str, Any] = {"description": description, "content": _content(ErrorAnswer)}
    if status == "429":
        reply["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return reply


def _version() -> str:
    try:
        return version("lanner")
    except PackageNotFoundError:
        return "0"
