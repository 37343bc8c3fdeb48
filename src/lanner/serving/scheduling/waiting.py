"""The requests that wait, earliest deadline first, apart by the worst variant that each accepts."""

from bisect import bisect_left
from collections.abc import Sequence

from lanner.serving.scheduling.contract import Request

Entry = tuple[float, int, Request]
"""(deadline, number, request): the order of service."""


class Waiting:
    """One sorted list for each lowest rung.

    A sorted list rather than a heap: it says how many stand before a deadline and takes one out of the middle, both in
    O(log n) comparisons; what it shifts in memory is a tenth of a microsecond at a thousand entries.
    """

    def __init__(self, rungs: int) -> None:
        self.queues: list[list[Entry]] = [[] for _ in range(rungs)]
        self._entries: dict[int, tuple[int, Entry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, number: int) -> bool:
        return number in self._entries

    def add(self, request: Request, lowest: int, place: int) -> None:
        """Let ``request`` wait, which accepts no rung below ``lowest``, at its place there (see ``before``)."""
        entry = (request.deadline, request.number, request)
        self.queues[lowest].insert(place, entry)
        self._entries[request.number] = (lowest, entry)

    def remove(self, number: int) -> bool:
        """Take one request out; False where it does not wait."""
        if number not in self._entries:
            return False
        lowest, entry = self._entries.pop(number)
        queue = self.queues[lowest]
        del queue[bisect_left(queue, entry)]
        return True

    def before(self, request: Request, lowest: int) -> int:
        """How many in one queue are served before ``request``."""
        queue, key = self.queues[lowest], (request.deadline, request.number)
        if not queue or queue[-1] < key:
            return len(queue)
        return bisect_left(queue, key)

    def drop_before(self, lowest: int, deadline: float) -> list[int]:
        """Take those out of one queue whose deadline is earlier; returns their numbers."""
        queue = self.queues[lowest]
        place = bisect_left(queue, (deadline,))
        numbers = [number for _, number, _ in queue[:place]]
        del queue[:place]
        for number in numbers:
            del self._entries[number]
        return numbers

    def take(self, places: Sequence[int], number: int) -> tuple[Request, ...]:
        """The ``number`` earliest of some queues."""
        merged = sorted([entry for place in places for entry in self.queues[place][:number]])[:number]
        beyond = (merged[-1][0], merged[-1][1] + 1)
        for place in places:
            queue = self.queues[place]
            del queue[: bisect_left(queue, beyond)]
        for _, key, _ in merged:
            del self._entries[key]
        return tuple([request for _, _, request in merged])
