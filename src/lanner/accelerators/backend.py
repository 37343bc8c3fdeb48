"""The ranker's interface to an accelerator, opened by the name in a setting; counts requests."""

import logging
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.build import clock_of, emulated, fitting_device
from lanner.accelerators.contract import MAX_HISTORY, Contract
from lanner.accelerators.emulator import Accelerator, Emulator
from lanner.accelerators.host import Board
from lanner.accelerators.reference import answer
from lanner.errors import AcceleratorError, ConfigError, LannerError
from lanner.inference.ranker import Asked

EMULATOR, BOARD = "emulator", "board"
LONGEST_LIST = 10
"""Of the emulator, as in the routed design; a board reports its own."""
_log = logging.getLogger(__name__)


class Backend:
    """Implements ``inference.ranker.Accelerator``; thread-safe.

    If the accelerator fails, the ranker answers instead, and ``failed`` is incremented.
    """

    def __init__(self, name: str, contract: Contract, accelerator: Accelerator, mhz: float) -> None:
        """mhz: clock that converts cycles to time."""
        self.name, self.contract, self.mhz = name, contract, mhz
        self._accelerator = accelerator
        self._lock = threading.Lock()
        self._counts = {"answered": 0, "failed": 0, "cycles": 0}

    def covers(self, length: int, k: int) -> bool:
        """Whether it supports a history of ``length`` entries and a list of ``k``."""
        return length <= MAX_HISTORY and k <= self._accelerator.longest_list

    def rank(self, asked: Sequence[Asked]) -> Sequence[tuple[NDArray[np.int64], NDArray[np.float32]] | None]:
        """Items and scores of each request, best first; None: the accelerator failed."""
        try:
            requests = [self.contract.request(one.rows, one.shares, one.seen, one.k) for one in asked]
            found = self._accelerator.answer(requests)
        except LannerError as error:
            with self._lock:
                self._counts["failed"] += len(asked)
            _log.debug("the ranker answers in place of the accelerator: %s", error)
            return [None] * len(asked)
        with self._lock:
            self._counts["answered"] += len(found)
            self._counts["cycles"] += sum(one.cycles for one in found)
        lists = [one.answer for one in found]
        ends = [int((one.rows >= 0).sum()) for one in lists]
        unit = self.contract.units.score
        return [(a.rows[:end], (a.scores[:end] * unit).astype(np.float32)) for a, end in zip(lists, ends, strict=True)]

    def check(self) -> None:
        """Raises ``AcceleratorError`` if it cannot be reached."""
        self._accelerator.answer([])

    def verify(self, asked: Sequence[Asked]) -> int:
        """Compare it with the contract's reference; returns the number of requests, 0 if it cannot be reached.

        Raises:
            AcceleratorError: a list or score differs.
        """
        requests = [self.contract.request(one.rows, one.shares, one.seen, one.k) for one in asked]
        try:
            found = self._accelerator.answer(requests)
        except AcceleratorError as error:
            _log.warning("the accelerator is not used until it answers: %s", error)
            return 0
        for number, (timed, request) in enumerate(zip(found, requests, strict=True)):
            wanted = answer(self.contract, request)
            if not (
                np.array_equal(timed.answer.rows, wanted.rows) and np.array_equal(timed.answer.scores, wanted.scores)
            ):
                raise AcceleratorError(
                    f"{self.name}: its answer to request {number} differs from the integer contract; build it again"
                )
        return len(found)

    def figures(self) -> dict[str, float]:
        """Requests answered and failed, cycles of those answered, and their predicted microseconds."""
        with self._lock:
            return {**self._counts, "predicted_microseconds": self._counts["cycles"] / self.mhz}

    def close(self) -> None:
        """Release the accelerator."""
        self._accelerator.close()


def check_place(place: str) -> None:
    """Raises ``ConfigError`` if a setting does not name an accelerator."""
    if place != EMULATOR and not place.startswith(f"{BOARD}:"):
        raise ConfigError(f"unknown accelerator '{place}'; known: {EMULATOR}, {BOARD}:/dev/DEVICE, {BOARD}:HOST:PORT")


def open_backend(place: str, contract: Contract, mhz: float | None = None) -> Backend:
    """place: ``emulator``, or ``board:`` followed by a place of ``host.Board``. mhz: default: as ``build.clock_of``.

    Raises:
        ConfigError: an unknown place, or a contract that does not fit the accelerator.
    """
    check_place(place)
    if mhz is None:
        mhz = clock_of(contract, LONGEST_LIST)
        if fitting_device(contract, LONGEST_LIST) is None:
            _log.warning("no known device fits the accelerator; its times are predicted at %g MHz", mhz)
    if place == EMULATOR:
        return Backend(EMULATOR, contract, Emulator(contract, emulated(contract, LONGEST_LIST)), mhz)
    return Backend(BOARD, contract, Board(place.removeprefix(f"{BOARD}:"), contract), mhz)
