"""HTTP client of the server: ``Client``, and ``AsyncClient`` for asyncio. Both use the types of ``serving.messages``.

    with Client("http://127.0.0.1:8080") as client:
        answer = client.recommend(RecommendRequest(user_id="ada", k=5))

The operations are in ``calls``, the retry policy in ``conversation``.
"""

import asyncio
import time
from typing import Any, ClassVar

import msgspec

from lanner.client.calls import A, Call, Operations
from lanner.client.conversation import Reply, Retries, conversation
from lanner.errors import ConfigError, ServerError, optional_module

__all__ = ["AsyncClient", "Client", "Retries"]


class _Base(Operations):
    """Shared by both clients: the httpx client, requests and errors."""

    _http_class: ClassVar[str]

    def __init__(
        self,
        address: str,
        key: str | None = None,
        timeout_s: float = 5.0,
        retries: Retries | None = None,
        transport: Any = None,
    ) -> None:
        """address: ``http://host:port``. key: API key. timeout_s: per attempt. retries: None: the defaults.

        transport: an httpx transport; ``httpx.ASGITransport`` calls an application in this process.

        Raises:
            MissingExtraError: httpx is not installed. ConfigError: an invalid argument.
        """
        httpx = optional_module("httpx", "httpx", "client", "the client")
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"address: received {address!r}, expected http://… or https://…")
        if timeout_s <= 0:
            raise ConfigError(f"timeout_s must be above 0, received {timeout_s}")
        self._httpx, self._retries, self._timeout_s = httpx, retries or Retries(), timeout_s
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._http: Any = getattr(httpx, self._http_class)(
            base_url=address, timeout=timeout_s, transport=transport, headers=headers
        )

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
        """Connection failures are retried; timeouts of a sent request are not."""
        if isinstance(error, self._httpx.TimeoutException) and not isinstance(error, self._httpx.ConnectTimeout):
            raise ServerError(f"no response within {self._timeout_s:g} s; raise timeout_s or request less") from None
        return error


class Client(_Base):
    """A blocking client. Errors are raised as LannerErrors with the server's message.

    Events without a key get a random one, so that retries do not store them twice.
    """

    _http_class = "Client"

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


class AsyncClient(_Base):
    """The asyncio version of ``Client``."""

    _http_class = "AsyncClient"

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
