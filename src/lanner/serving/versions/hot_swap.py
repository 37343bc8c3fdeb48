"""Served deployments by alias, with reference counting: a replaced deployment is closed after its last request.

Used on the event loop; opening and catalog changes run in threads.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from lanner.errors import BundleError, LannerError, StoreUnavailableError
from lanner.serving.item_ingestion import background_thread


class Swappable(Protocol):
    """Interface of a deployment; all but ``version`` blocks and is called in a thread."""

    version: str

    def verify(self) -> int:
        """Raises BundleError if answers differ from the golden requests."""

    def warm_up(self) -> None: ...

    def catch_up(self) -> None:
        """Apply pending item changes from the store. Raises StoreUnavailableError."""

    def close(self) -> None: ...


Served = TypeVar("Served", bound=Swappable)


class Lease(Generic[Served]):
    """A deployment with its number of active requests; ``with`` yields the deployment for one request."""

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
    """Deployments by alias; several aliases may share one."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease[Served]] = {}
        self._opening = asyncio.Lock()
        self._changing = asyncio.Lock()  # held while catalogs change and while a deployment is swapped in
        self._thread = background_thread()  # a single thread: a cancelled caller's work ends before the next begins
        self._num_requested = self._num_applied = 0
        self._closers: set[asyncio.Task[None]] = set()

    def acquire(self, alias: str) -> Lease[Served]:
        """Lease the deployment of an alias for one request: ``with deployments.acquire("champion") as deployment``.

        Raises:
            StoreUnavailableError: the alias is not served: the server is starting or stopping.
        """
        lease = self._leases.get(alias)
        if lease is None:
            raise StoreUnavailableError("the server is starting or stopping; try again in a moment")
        return lease

    def serves(self, alias: str) -> bool:
        """Whether the alias is served; stays true until ``close``."""
        return alias in self._leases

    def versions(self) -> dict[str, str]:
        """Served versions by alias."""
        return {alias: lease.deployment.version for alias, lease in self._leases.items()}

    def all(self) -> list[Served]:
        """All distinct deployments."""
        return list({id(lease): lease.deployment for lease in self._leases.values()}.values())

    async def catch_up(self) -> None:
        """Apply item changes stored before this call in every deployment. Concurrent callers share one run.

        Raises:
            StoreUnavailableError: the store did not respond.
        """
        self._num_requested += 1
        ticket = self._num_requested
        async with self._changing:
            if self._num_applied >= ticket:
                return
            requested = self._num_requested
            for deployment in self.all():
                await self._in_thread(deployment.catch_up)
            self._num_applied = requested

    async def serve(self, alias: str, version: str, opening: Callable[[], Served]) -> None:
        """Swap to ``version``: the deployment of another alias, or a new one from ``opening``, verified and warmed up.

        One at a time; requests continue meanwhile.

        Raises:
            LannerError: opening or verification failed; the previous version stays.
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
        """Route new requests to ``deployment``; the previous one is closed once no alias and no request uses it."""
        shared = next((one for one in self._leases.values() if one.deployment is deployment), None)
        before = self._leases.get(alias)
        self._leases[alias] = shared or Lease(deployment)
        if before is not None and before not in self._leases.values():
            self._retire(before)

    async def close(self) -> None:
        """Close every deployment after its last request; returns when all are closed."""
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
    """Open, verify and warm up; any failure becomes one line, because the old version must keep serving."""
    try:
        deployment = opening()
    except Exception as error:
        raise _one_line(f"version {version} cannot be opened", error) from error
    if deployment.version != version:
        deployment.close()
        raise BundleError(f"version {version} was replaced by {deployment.version}; the old one is still served")
    _finish(deployment, deployment.verify)
    _finish(deployment, deployment.warm_up)
    return deployment


def _finish(deployment: Swappable, step: Callable[[], object]) -> None:
    """Run one startup step, or close the deployment."""
    try:
        step()
    except Exception as error:
        deployment.close()
        raise _one_line(f"version {deployment.version} failed verification or warm-up", error) from error


def _one_line(problem: str, error: Exception) -> LannerError:
    if isinstance(error, LannerError):
        return error
    return BundleError(f"{problem} ({' '.join(str(error).split()) or type(error).__name__})")
