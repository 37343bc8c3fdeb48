"""The server's client: ``Client``, and ``AsyncClient`` for asyncio. Both take and return ``serving.messages``.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.recommend(RecommendRequest(user_id="ada", k=5))

What an operation sends is written once, in ``calls``; when a request is retried, in ``conversation``.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from lanner.client import calls
from lanner.client.calls import A, Call
from lanner.client.conversation import Reply, Retries, conversation
from lanner.errors import ConfigError, MissingExtraError, ServerError
from lanner.serving.messages import (
    Alive,
    Changed,
    Event,
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

__all__ = ["AsyncClient", "Client", "Retries"]


class _Wire:
    """What both clients share: httpx, and a call in its terms."""

    def __init__(
        self, address: str, key: str | None, timeout_s: float, retries: Retries | None, transport: Any
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise MissingExtraError("httpx", "client", "the client") from None
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"address: received {address!r}, expected http://… or https://…")
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be above 0, received {timeout_s}")
        self._httpx, self._retries = httpx, retries or Retries()
        self._options: dict[str, Any] = {
            "base_url": address,
            "timeout": timeout_s,
            "transport": transport,
            "headers": {} if key is None else {"authorization": f"Bearer {key}"},
        }

    def _request(self, call: Call[Any]) -> dict[str, Any]:
        request: dict[str, Any] = {"method": call.method, "url": call.path, "params": call.query or None}
        if call.body is not None:
            request["content"] = msgspec.json.encode(call.body)
            request["headers"] = {"content-type": "application/json"}
        return request

    def _reply(self, response: Any) -> Reply:
        try:
            wait = float(response.headers.get("retry-after", ""))
        except ValueError:
            wait = None
        return Reply(response.status_code, response.content, wait)

    def _broken(self, error: Exception) -> Exception:
        """A connection that failed is retried; a request that took the whole timeout is not."""
        if isinstance(error, self._httpx.TimeoutException) and not isinstance(error, self._httpx.ConnectTimeout):
            seconds = self._options["timeout"]
            raise ServerError(f"no answer within {seconds:g} s; give more time or ask for less") from None
        return error


class Client(_Wire):
    """A blocking client. A request that fails is raised as a LannerError with the server's own line.

    Events without a key get one, so that none is stored twice when a request is retried.
    """

    def __init__(
        self,
        address: str,
        key: str | None = None,
        timeout_s: float = 5.0,
        retries: Retries | None = None,
        transport: Any = None,
    ) -> None:
        """address: ``http://host:port``. key: for servers that ask for one. timeout_s: of each attempt.

        transport: of httpx, instead of its own; for a socket of its own kind.

        Raises:
            MissingExtraError: httpx is not installed. ConfigError: an argument cannot be.
        """
        super().__init__(address, key, timeout_s, retries, transport)
        self._http = self._httpx.Client(**self._options)

    def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items for a known user, or an anonymous one by a history, a text, or both."""
        return self._send(calls.recommend(request))

    def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score for a user."""
        return self._send(calls.explain(request))

    def add_events(self, events: Sequence[Event]) -> EventsAnswer:
        """Store events together; returns once they are on disk."""
        return self._send(calls.add_events(events))

    def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item, new or not."""
        return self._send(calls.put_item(item_id, item))

    def delete_item(self, item_id: str) -> Changed:
        """Remove an item."""
        return self._send(calls.delete_item(item_id))

    def similar_items(self, item_id: str, k: int = 10) -> RecommendAnswer:
        """The items nearest to an item."""
        return self._send(calls.similar_items(item_id, k))

    def put_user(self, user_id: str, user: User) -> Changed:
        """Write a user, new or not."""
        return self._send(calls.put_user(user_id, user))

    def delete_user(self, user_id: str) -> Changed:
        """Remove a user with their events."""
        return self._send(calls.delete_user(user_id))

    def search(self, q: str, k: int = 10, user_id: str | None = None) -> RecommendAnswer:
        """The items whose texts are nearest to a query, personalised for a user where one is named."""
        return self._send(calls.search(q, k, user_id))

    def status(self) -> Status:
        """What is served, how it performed over the last seconds, and what can be asked."""
        return self._send(calls.STATUS)

    def live(self) -> Alive:
        """Whether the process is alive."""
        return self._send(calls.LIVE)

    def ready(self) -> Health:
        """Whether requests are answered."""
        return self._send(calls.READY)

    def metrics(self) -> str:
        """Metrics in Prometheus' text format."""
        return self._send(calls.METRICS)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _send(self, call: Call[A]) -> A:
        talk, request = conversation(call, self._retries), self._request(call)
        wait = next(talk)
        try:
            while True:
                time.sleep(wait)
                wait = talk.send(self._once(request))
        except StopIteration as end:
            answer: A = end.value
            return answer

    def _once(self, request: dict[str, Any]) -> Reply | Exception:
        try:
            return self._reply(self._http.request(**request))
        except self._httpx.TransportError as error:
            return self._broken(error)


class AsyncClient(_Wire):
    """As ``Client``, for asyncio."""

    def __init__(
        self,
        address: str,
        key: str | None = None,
        timeout_s: float = 5.0,
        retries: Retries | None = None,
        transport: Any = None,
    ) -> None:
        """address: ``http://host:port``. key: for servers that ask for one. timeout_s: of each attempt.

        transport: of httpx, instead of its own; ``httpx.ASGITransport`` reaches an application in this process.

        Raises:
            MissingExtraError: httpx is not installed. ConfigError: an argument cannot be.
        """
        super().__init__(address, key, timeout_s, retries, transport)
        self._http = self._httpx.AsyncClient(**self._options)

    async def recommend(self, request: RecommendRequest) -> RecommendAnswer:
        """The best items for a known user, or an anonymous one by a history, a text, or both."""
        return await self._send(calls.recommend(request))

    async def explain(self, request: ExplainRequest) -> ExplainAnswer:
        """Why an item has its score for a user."""
        return await self._send(calls.explain(request))

    async def add_events(self, events: Sequence[Event]) -> EventsAnswer:
        """Store events together; returns once they are on disk."""
        return await self._send(calls.add_events(events))

    async def put_item(self, item_id: str, item: Item) -> Changed:
        """Write an item, new or not."""
        return await self._send(calls.put_item(item_id, item))

    async def delete_item(self, item_id: str) -> Changed:
        """Remove an item."""
        return await self._send(calls.delete_item(item_id))

    async def similar_items(self, item_id: str, k: int = 10) -> RecommendAnswer:
        """The items nearest to an item."""
        return await self._send(calls.similar_items(item_id, k))

    async def put_user(self, user_id: str, user: User) -> Changed:
        """Write a user, new or not."""
        return await self._send(calls.put_user(user_id, user))

    async def delete_user(self, user_id: str) -> Changed:
        """Remove a user with their events."""
        return await self._send(calls.delete_user(user_id))

    async def search(self, q: str, k: int = 10, user_id: str | None = None) -> RecommendAnswer:
        """The items whose texts are nearest to a query, personalised for a user where one is named."""
        return await self._send(calls.search(q, k, user_id))

    async def status(self) -> Status:
        """What is served, how it performed over the last seconds, and what can be asked."""
        return await self._send(calls.STATUS)

    async def live(self) -> Alive:
        """Whether the process is alive."""
        return await self._send(calls.LIVE)

    async def ready(self) -> Health:
        """Whether requests are answered."""
        return await self._send(calls.READY)

    async def metrics(self) -> str:
        """Metrics in Prometheus' text format."""
        return await self._send(calls.METRICS)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _send(self, call: Call[A]) -> A:
        talk, request = conversation(call, self._retries), self._request(call)
        wait = next(talk)
        try:
            while True:
                await asyncio.sleep(wait)
                wait = talk.send(await self._once(request))
        except StopIteration as end:
            answer: A = end.value
            return answer

    async def _once(self, request: dict[str, Any]) -> Reply | Exception:
        try:
            return self._reply(await self._http.request(**request))
        except self._httpx.TransportError as error:
            return self._broken(error)
