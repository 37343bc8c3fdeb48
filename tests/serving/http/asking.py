"""One request to an ASGI application by hand, byte for byte as a server would pass it on."""

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
    raw_path, _, query = address.partition("?")
    named = {"content-type": "application/json", **({} if parts else {"content-length": str(len(body))})}
    named |= headers or {}
    scope = {
        "type": "http",
        "method": method,
        "path": "not read",
        "raw_path": raw_path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items() if value is not None],
        "client": (client, 1234),
    }
    return asyncio.run(_converse(app, scope, list(parts or [body])))


async def _converse(app, scope, waiting):
    sent = []

    async def receive():
        part = waiting.pop(0)
        if part is HANG:
            await asyncio.Event().wait()
        if part is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    first, second = sent
    names = {name.decode(): value.decode() for name, value in first["headers"]}
    return Reply(first["status"], names, second["body"])
