"""One request to an ASGI application by hand, byte for byte as a server would pass it."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

HANG = object()
"""In place of a part of a body: it never arrives."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        line = self.json["error"]
        assert "\n" not in line
        return line


def ask(app, method, address, body=b"", headers=None, parts=None, client="10.0.0.1"):
    """Body in one part, or in ``parts``; a part that is None is the caller going away."""
    named = {"content-type": "application/json", **({} if parts else {"content-length": str(len(body))})}
    return asyncio.run(_converse(app, scope_of(method, address, named | (headers or {}), client), parts or [body]))


def scope_of(method, address, headers, client="10.0.0.1"):
    """As a server writes it; a header whose value is None is left out."""
    raw_path, _, query = address.partition("?")
    return {
        "type": "http",
        "method": method,
        "path": "not read",
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items() if value is not None],
        "client": (client, 1234),
        "server": ("10.0.0.9", 8080),
    }


def receiver(parts):
    waiting = list(parts)

    async def receive():
        part = waiting.pop(0)
        if part is HANG:
            await asyncio.Event().wait()
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    return receive


async def _converse(app, scope, parts):
    sent = []

    async def send(message):
        sent.append(message)

    await app(scope, receiver(parts), send)
    first, second = sent
    names = {name.decode(): value.decode() for name, value in first["headers"]}
    return Reply(first["status"], names, second["body"])
