"""The accelerator without one: answers bit for bit what the hardware would, and the cycles that it would take.

Answers come from the contract's reference, cycles from the model that simulation confirms; a time is a prediction at a
clock that place and route gave.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lanner.accelerators.contract import Contract, Request
from lanner.accelerators.fpga.cycles import request_cycles
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import check_fits
from lanner.accelerators.reference import Answer, answer


@dataclass(frozen=True)
class Timed:
    """An answer, and the cycles from the request's first word to the answer's last."""

    answer: Answer
    cycles: int

    def microseconds(self, mhz: float) -> float:
        """At a clock."""
        return self.cycles / mhz


class Accelerator(Protocol):
    """Whatever answers requests by the contract: the emulator, a simulation, a board behind a link."""

    def answer(self, requests: Sequence[Request]) -> list[Timed]:
        """One answer a request, in order."""
        ...


class Emulator:
    """Raises ``ConfigError`` where the contract does not fit an accelerator of these sizes."""

    def __init__(self, contract: Contract, parameters: Parameters) -> None:
        check_fits(contract, parameters)
        self._contract, self._parameters = contract, parameters

    def answer(self, requests: Sequence[Request]) -> list[Timed]:
        """One answer a request, in order."""
        return [Timed(answer(self._contract, request), self.cycles(request)) for request in requests]

    def cycles(self, request: Request) -> int:
        """What the hardware takes while its host keeps up."""
        sparse = self._contract.sparse
        entries = 0 if sparse is None else int(np.diff(sparse.indptr)[request.rows].sum())
        return request_cycles(self._parameters, len(request.rows), self._contract.num_items, request.k, entries)
