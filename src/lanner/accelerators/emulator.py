"""Emulates the accelerator: bit-exact answers, and the cycles that the hardware would take.

Answers equal those of the contract's reference, computed by matrix products for all requests at once; cycles come from
a model verified by simulation; times are predictions at the clock from place and route.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lanner.accelerators.contract import NO_ROW, NO_SCORE, ROW_BITS, Contract, Request
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import check_fits
from lanner.accelerators.reference import LARGEST_SCORE, LARGEST_USER, Answer, coefficients, rescaled, rounded
from lanner.inference.sparse import add_weighted_rows

_LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Timed:
    """An answer, and the cycles from the request's first word to the answer's last."""

    answer: Answer
    cycles: int

    def microseconds(self, mhz: float) -> float:
        """Time at a clock of ``mhz``."""
        return self.cycles / mhz


class Accelerator(Protocol):
    """Answers requests by the contract: the emulator, or a board behind a link."""

    longest_list: int
    """Largest k."""

    def answer(self, requests: Sequence[Request]) -> list[Timed]:
        """One answer per request, in order. Raises ``AcceleratorError`` on failure."""
        ...

    def close(self) -> None:
        """Release resources."""


class Emulator:
    """Software accelerator. Raises ``ConfigError`` if the contract does not fit an accelerator of these sizes."""

    def __init__(self, contract: Contract, parameters: Parameters) -> None:
        check_fits(contract, parameters)
        self._contract, self._parameters, self.longest_list = contract, parameters, parameters.k
        # Integers of up to 53 bits are exact in float64, which has fast matrix products.
        self._source_ID, self._target_DI = contract.source.astype(np.float64), contract.target.T.astype(np.float64)
        self._target_scale_I = contract.target_scale.astype(np.int64)

    def answer(self, requests: Sequence[Request]) -> list[Timed]:
        """One answer per request, in order."""
        if not requests:
            return []
        users_BD = np.stack([self._user(request) for request in requests])
        scores_BI = (users_BD @ self._target_DI).astype(np.int64)
        scores_BI *= self._target_scale_I
        scores_BI = rounded(scores_BI, self._contract.score_shift)
        scores_BI += self._contract.bias
        found = zip(requests, scores_BI, strict=True)
        return [Timed(self._list(request, scores_I), self.cycles(request)) for request, scores_I in found]

    def close(self) -> None:
        """Nothing to release."""

    def cycles(self, request: Request) -> int:
        """Cycles of the hardware while its host keeps up."""
        sparse = self._contract.sparse
        entries = 0 if sparse is None else int(np.diff(sparse.indptr)[request.rows].sum())
        return request_cycles(self._parameters, len(request.rows), self._contract.num_items, request.k, entries)

    def _user(self, request: Request) -> NDArray[np.float64]:
        sums_D = coefficients(self._contract.source_scale, request).astype(np.float64) @ self._source_ID[request.rows]
        return rescaled(sums_D.astype(np.int64), request.user, LARGEST_USER).astype(np.float64)

    def _list(self, request: Request, scores_I: NDArray[np.int64]) -> Answer:
        sparse = self._contract.sparse
        if sparse is not None:
            sums_I = np.zeros(len(scores_I))
            shares = coefficients(sparse.scale, request).astype(np.float64)
            add_weighted_rows(request.rows, shares, sparse.indptr, sparse.items, sparse.codes, sums_I)
            scores_I = scores_I + rescaled(sums_I.astype(np.int64), request.sparse, LARGEST_SCORE)
        # A single key orders by score, then by row; seen rows come last.
        keys_I = -np.clip(scores_I, -LARGEST_SCORE, LARGEST_SCORE) << ROW_BITS | np.arange(len(scores_I))
        keys_I[request.seen] = _LAST
        best = np.sort(np.partition(keys_I, request.k - 1)[: request.k] if request.k < len(keys_I) else keys_I)
        best = best[best < _LAST]
        missing = (0, request.k - len(best))
        rows, scores = best & (1 << ROW_BITS) - 1, -(best >> ROW_BITS)
        return Answer(np.pad(rows, missing, constant_values=NO_ROW), np.pad(scores, missing, constant_values=NO_SCORE))
