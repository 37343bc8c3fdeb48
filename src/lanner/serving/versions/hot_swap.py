"""The deployments that are served now, by alias. A request borrows one; it is closed after its last request ended.

Everything here is called on the event loop; openings and catalogue changes run in threads.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from lanner.errors import BundleError, LannerError, StoreUnavailableError
from lanner.serving.item_ingestion import background_thread


class Swappable(Protocol):
    """What is asked of a deployment; all but ``version`` blocks and is called in a thread."""

    version: str

    def verify(self) -> int:
        """Raises BundleError where answers differ from the golden ones."""

    def warm_up(self) -> None: ...

    def catch_up(self) -> None:
        """Take in what the store has that this deployment has not. Raises StoreUnavailableError."""

    def close(self) -> None: ...


Served = TypeVar("Served", bound=Swappable)


class Lease(Generic[Served]):
    """A deployment and how many requests it has now; ``with`` gives the deployment for one of them."""

    __slots__ = ("deployment", "idle", "requests", "retired")

    def __init__(self, deployment: Served) -> None:
        self.deployment = deployment
        self.requests, self.retired = 0, False
        self.idle = asyncio.Event()

    def __enter__(self) -> Served:
        self.requests += 1
        return self.deployment

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.requests -= 1
        if self.retired and not self.requests:
            self.idle.set()


class Deployments(Generic[Served]):
    """Deployments by alias; two aliases may share one."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease[Served]] = {}
        self._opening = asyncio.Lock()
        self._changing = asyncio.Lock()  # held while catalogues change, and while a deployment takes its place
        self._thread = background_thread()  # one: a cancelled caller's turn ends before the next begins
        self._asked = self._applied = 0
        self._closers: set[asyncio.Task[None]] = set()

    def acquire(self, alias: str) -> Lease[Served]:
        """The deployment of an alias for one request: ``with deployments.acquire("champion") as deployment``.

        Raises:
            StoreUnavailableError: nothing is served under that alias: the server is starting or stopping.
        """
        lease = self._leases.get(alias)
        if lease is None:
            raise StoreUnavailableError("the server is starting or stopping; ask again in a moment")
        return lease

    def serves(self, alias: str) -> bool:
        """Whether there is a deployment under an alias; there will be one until ``close``."""
        return alias in self._leases

    def versions(self) -> dict[str, str]:
        """What is served now, by alias."""
        return {alias: lease.deployment.version for alias, lease in self._leases.items()}

    def all(self) -> list[Served]:
        """What is served now, each once."""
        return list({id(lease): lease.deployment for lease in self._leases.values()}.values())

    async def catch_up(self) -> None:
        """Let every deployment take in what was stored before this call. Callers that wait together share one turn.

        Raises:
            StoreUnavailableError: the store did not answer this caller's turn.
        """
        self._asked += 1
        mine = self._asked
        async with self._changing:
            if self._applied >= mine:
                return
            asked = self._asked
            for deployment in self.all():
                await self._in_thread(deployment.catch_up)
            self._applied = asked

    async def serve(self, alias: str, version: str, opening: Callable[[], Served]) -> None:
        """Swap to ``version``: the deployment of another alias, else what ``opening`` gives, verified and warm.

        One at a time; requests go on meanwhile.

        Raises:
            LannerError: it cannot be opened or answers wrongly; what was served before still is.
        """
        async with self._opening:
            if self.versions().get(alias) == version:
                return
            shared = next((one for one in self.all() if one.version == version), None)
            deployment = await asyncio.to_thread(_opened, version, opening) if shared is None else shared
            async with self._changing:
                if shared is None:
                    await self._in_thread(lambda: _finish(deployment, deployment.catch_up))
                self.swap(alias, deployment)

    def swap(self, alias: str, deployment: Served) -> None:
        """New requests get ``deployment``; the one before is closed once no alias and no request has it."""
        shared = next((one for one in self._leases.values() if one.deployment is deployment), None)
        before = self._leases.get(alias)
        self._leases[alias] = shared or Lease(deployment)
        if before is not None and before not in self._leases.values():
            self._retire(before)

    async def close(self) -> None:
        """Close every deployment, each after its last request; returns when all are closed."""
        async with self._opening, self._changing:
            for lease in set(self._leases.values()):
                self._retire(lease)
            self._leases.clear()
        await asyncio.gather(*self._closers)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _retire(self, lease: Lease[Served]) -> None:
        lease.retired = True
        if not lease.requests:
            lease.idle.set()
        closer = asyncio.create_task(_close_when_idle(lease))
        self._closers.add(closer)
        closer.add_done_callback(self._closers.discard)


async def _close_when_idle(lease: Lease[Served]) -> None:
    await lease.idle.wait()
    await asyncio.to_thread(lease.deployment.close)


def _opened(version: str, opening: Callable[[], Served]) -> Served:
    """Open, verify and warm up; whatever fails inside a runtime becomes one line, for the old version must go on."""
    try:
        deployment = opening()
    except Exception as error:
        raise _one_line(f"version {version} cannot be opened", error) from error
    if deployment.version != version:
        deployment.close()
        raise BundleError(f"version {version} was replaced by {deployment.version}; the one before is still served")
    _finish(deployment, deployment.verify)
    _finish(deployment, deployment.warm_up)
    return deployment


def _finish(deployment: Swappable, step: Callable[[], object]) -> None:
    """Take a step towards readiness, or close the deployment."""
    try:
        step()
    except Exception as error:
        deployment.close()
        raise _one_line(f"version {deployment.version} does not answer", error) from error


def _one_line(problem: str, error: Exception) -> LannerError:
    if isinstance(error, LannerError):
        return error
    return BundleError(f"{problem} ({' '.join(str(error).split()) or type(error).__name__})")
