"""The OpenAPI document against the messages, the Service protocol, the clients and the application."""

import inspect
import json
import typing

import msgspec
import pytest
import schemathesis
from asking import ask
from hypothesis import HealthCheck, settings
from openapi_spec_validator import validate
from schemathesis.config import SchemathesisConfig
from stand_in_service import StandInService, served

from lanner.client import AsyncClient, Client
from lanner.serving import messages
from lanner.serving.http.contract import Service
from lanner.serving.http.openapi import document
from lanner.serving.http.routes import REQUIRED, ROUTES

OWN = {"live", "ready", "metrics"}
EXAMPLES = 20


def operations():
    for path, methods in document(guarded=True)["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def test_the_document_is_openapi_and_is_served():
    validate(document(guarded=False))
    validate(document(guarded=True))
    assert ask(served(), "GET", "/openapi.json").json == json.loads(json.dumps(document(guarded=False)))


def test_the_document_tells_of_keys_where_there_are_some():
    for guarded in (False, True):
        told = document(guarded)
        assert told["security"] == ([{"key": []}] if guarded else [])
        for methods in told["paths"].values():
            for operation in methods.values():
                assert ("401" in operation["responses"]) == (guarded and "security" not in operation)


def test_schemas_are_the_messages():
    for name, schema in document(guarded=True)["components"]["schemas"].items():
        kind = getattr(messages, name)
        names = [one.name for one in msgspec.structs.fields(kind)]
        assert list(schema["properties"]) == names
        assert schema["additionalProperties"] is False


def test_examples_are_valid():
    seen = 0
    for _, _, operation in operations():
        contents = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in [
            one["content"]["application/json"] for one in contents if "application/json" in one.get("content", {})
        ]:
            kind = getattr(messages, content["schema"]["$ref"].rpartition("/")[2])
            if "example" in content:
                msgspec.convert(content["example"], kind)
                seen += 1
    assert seen >= 15


def test_every_operation_is_a_method_of_both_clients_and_the_other_way_round():
    documented = {operation["operationId"] for _, _, operation in operations()}
    for client in (Client, AsyncClient):
        public = {name for name, one in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")}
        assert public - {"close"} == documented


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_a_client_sends_what_its_operation_takes(route):
    arguments = {"item_id": "a/b", "user_id": "a/b", "k": 7, "q": "w", "item": messages.Item(), "user": messages.User()}
    arguments |= {"events": [messages.Event(user_id="a", item_id="b")], "request": None}
    if route.operation in ("explain", "recommend"):
        asked = {"user_id": "a"} | ({"item_id": "b"} if route.operation == "explain" else {})
        arguments["request"] = msgspec.convert(asked, route.body)
    describe = getattr(Client, route.operation)
    made = describe(*(({"self": None} | arguments)[name] for name in inspect.signature(describe).parameters))
    path = route.path.replace("{item_id}", "a%2Fb").replace("{user_id}", "a%2Fb")
    assert (made.method, made.path, made.answer) == (route.method, path, route.answer)
    assert type(made.body) is (route.body or type(None))
    assert set(made.query) == {one.name for one in route.in_query}


@pytest.mark.parametrize("route", [one for one in ROUTES if one.operation not in OWN], ids=lambda one: one.operation)
def test_the_service_takes_what_the_table_says(route):
    signature = inspect.signature(getattr(Service, route.operation))
    hints = typing.get_type_hints(getattr(Service, route.operation))
    names = [name for name in signature.parameters if name != "self"]
    expected = [one.name for one in (*route.in_path, *route.in_query)]
    assert names[: len(expected)] == expected
    assert len(names) == len(expected) + (route.body is not None)
    if route.body is not None:
        assert hints[names[-1]] is route.body
    assert hints["return"] is route.answer


def test_the_stand_in_is_a_service():
    for name, one in inspect.getmembers(Service, inspect.isfunction):
        if not name.startswith("_"):
            theirs = getattr(StandInService, name)
            assert inspect.signature(theirs) == inspect.signature(one)


def test_a_parameter_has_one_default_everywhere():
    for route in ROUTES:
        for one in route.in_query:
            if one.default is not REQUIRED:
                assert inspect.signature(getattr(Client, route.operation)).parameters[one.name].default == one.default


API = schemathesis.openapi.from_asgi(
    "/openapi.json",
    served(),
    config=SchemathesisConfig.from_dict(
        {"generation": {"allow-x00": False, "database": "none", "deterministic": True}}
    ),
)


@API.hook
def map_body(context, body):
    """To JSON Schema 5.0 is an integer; the server takes 5 alone."""
    return _whole(body)


def _whole(value):
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


@API.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
def test_the_application_does_what_its_document_says(case):
    case.call_and_validate()
