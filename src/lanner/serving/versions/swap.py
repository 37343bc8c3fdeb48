"""The models that are served now, by alias. A request borrows one; a model is closed after its last request ended."""

from collections.abc import Callable
from threading import Event, Lock, RLock, Thread
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from lanner.errors import BundleError, ConfigError, LannerError


class Model(Protocol):
    """What is asked of a model; ``ServedVersion`` has it."""

    version: str

    @property
    def is_worn(self) -> bool:
        """Whether a part of it has died: it answers on, but is to be opened anew."""

    def verify(self) -> int:
        """Raises BundleError where answers differ from the stored ones."""

    def warm_up(self) -> None: ...

    def catch_up(self) -> None:
        """Take in what was written since it was last called; nothing is written unseen between this and the swap."""

    def close(self) -> None: ...


Served = TypeVar("Served", bound=Model)


class Lease(Generic[Served]):
    """A model and how many requests it has now; ``with`` gives the model and ends one of them."""

    __slots__ = ("_lock", "idle", "model", "requests", "retired")

    def __init__(self, model: Served, lock: Lock) -> None:
        self.model, self._lock = model, lock
        self.requests, self.retired = 0, False
        self.idle = Event()

    def __enter__(self) -> Served:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self.requests -= 1
            if self.retired and not self.requests:
                self.idle.set()


class Live(Generic[Served]):
    """Models by alias; any thread may borrow and any may swap. Two aliases may share one model."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease[Served]] = {}
        self._lock = Lock()
        self._changing = RLock()  # held while a model is opened; requests never take it
        self._altering = RLock()  # held while what a model holds changes, and while another takes its place
        self._closers: list[Thread] = []

    def acquire(self, alias: str) -> Lease[Served]:
        """The model of an alias for one request: ``with live.acquire("champion") as model``. Every lease must end.

        Raises:
            ConfigError: no model is served under that alias.
        """
        with self._lock:
            lease = self._leases.get(alias)
            if lease is None:
                raise ConfigError(f"no model is served as '{alias}'; promote a version")
            lease.requests += 1
            return lease

    def serves(self, alias: str) -> bool:
        """Whether there is a model under an alias; there will be one until ``close``."""
        return alias in self._leases

    def is_worn(self, alias: str) -> bool:
        """Whether the model of an alias is to be opened anew."""
        lease = self._leases.get(alias)
        return lease is not None and lease.model.is_worn

    def versions(self) -> dict[str, str]:
        """What is served now, by alias."""
        with self._lock:
            return {alias: lease.model.version for alias, lease in self._leases.items()}

    def models(self) -> list[Served]:
        """What is served now, each once."""
        with self._lock:
            return list({id(lease): lease.model for lease in self._leases.values()}.values())

    def catch_up(self) -> None:
        """Let every model take in what was written; one that is swapped in meanwhile has it, too.

        Raises:
            LannerError: the first of those that models raise; the others took in what they could.
        """
        failed: list[LannerError] = []
        with self._altering:
            for model in self.models():
                try:
                    model.catch_up()
                except LannerError as error:
                    failed.append(error)
        if failed:
            raise failed[0]

    def swap(self, alias: str, model: Served) -> None:
        """New requests get ``model`` from now on; what stood there is closed once no alias and no request has it."""
        with self._changing, self._altering, self._lock:
            shared = next((one for one in self._leases.values() if one.model is model), None)
            before = self._leases.get(alias)
            self._leases[alias] = shared or Lease(model, self._lock)
            if before is not None and before not in self._leases.values():
                self._retire(before)

    def serve(self, alias: str, version: str, opening: Callable[[], Served]) -> None:
        """Swap to ``version``: the model that another alias has already, else what ``opening`` gives, checked and warm.

        One at a time; requests go on meanwhile.

        Raises:
            LannerError: it cannot be opened or answers wrongly; what was served before still is.
        """
        with self._changing:
            if self.versions().get(alias) == version and not self.is_worn(alias):
                return
            shared = self._open_already(version)
            model = shared or _opened(version, opening)
            with self._altering:
                if shared is None:
                    _finish(model, model.catch_up)
                self.swap(alias, model)

    def close(self) -> None:
        """Close every model, each after its last request; returns when all are closed."""
        with self._changing:
            with self._altering, self._lock:
                for lease in set(self._leases.values()):
                    self._retire(lease)
                self._leases.clear()
            for closer in self._closers:
                closer.join()

    def _open_already(self, version: str) -> Served | None:
        with self._lock:
            known = (one.model for one in self._leases.values() if one.model.version == version)
            return next((model for model in known if not model.is_worn), None)

    def _retire(self, lease: Lease[Served]) -> None:
        """With both locks held. A thread waits and closes, so that no request pays for it."""
        lease.retired = True
        if not lease.requests:
            lease.idle.set()
        closer = Thread(target=_close_when_idle, args=(lease,), name=f"close-{lease.model.version}", daemon=True)
        self._closers = [*(one for one in self._closers if one.is_alive()), closer]
        closer.start()


def _close_when_idle(lease: Lease[Served]) -> None:
    lease.idle.wait()
    lease.model.close()


def _opened(version: str, opening: Callable[[], Served]) -> Served:
    """Open, check and warm up; whatever goes wrong inside a runtime becomes one line, for the old model must go on."""
    try:
        model = opening()
    except Exception as error:
        raise _as_line(f"version {version} cannot be opened", error) from error
    if model.version != version:
        model.close()
        raise BundleError(f"version {version} was replaced by {model.version}; the one before is still served")
    _finish(model, model.verify)
    _finish(model, model.warm_up)
    return model


def _finish(model: Model, step: Callable[[], object]) -> None:
    """Do what makes a model ready, or close it."""
    try:
        step()
    except Exception as error:
        model.close()
        raise _as_line(f"version {model.version} does not answer", error) from error


def _as_line(problem: str, error: Exception) -> LannerError:
    if isinstance(error, LannerError):
        return error
    return BundleError(f"{problem} ({' '.join(str(error).split())}); the one before is still served")
