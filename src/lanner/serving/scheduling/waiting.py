"""The requests that wait, earliest deadline first, apart by the worst variant that each accepts."""

from bisect import bisect_left, insort

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

    def add(self, request: Request, lowest: int) -> None:
        """Let ``request`` wait, which accepts no rung below ``lowest``."""
        entry = (request.deadline, request.number, request)
        insort(self.queues[lowest], entry)
        self._entries[request.number] = (lowest, entry)

    def remove(self, number: int) -> bool:
        """Take one request out; False where it does not wait."""
        if number not in self._entries:
            return False
        lowest, entry = self._entries.pop(number)
        queue = self.queues[lowest]
        del queue[bisect_left(queue, entry)]
        return True

    def before(self, lowest: int, deadline: float) -> int:
        """How many in one queue have an earlier deadline, or the same."""
        return bisect_left(self.queues[lowest], (deadline, float("inf")))

    def take(self, lowest: range, number: int) -> tuple[Request, ...]:
        """The ``number`` earliest of some queues."""
        merged = sorted(entry for rung in lowest for entry in self.queues[rung][:number])[:number]
        for rung in lowest:
            queue = self.queues[rung]
            if queue and queue[0] <= merged[-1]:
                del queue[: bisect_left(queue, (merged[-1][0], merged[-1][1] + 1))]
        for _, key, _ in merged:
            del self._entries[key]
        return tuple([request for _, _, request in merged])
