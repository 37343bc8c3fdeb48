"""Lower and upper bounds on the cycles of a batch with external memory.

The actual number depends on which rows happen to be open and when refreshes occur. The register CYCLES stays within the
bounds while the host neither sends nor takes words too slowly; tests verify this by simulation.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lanner.accelerators.fpga import array, requantise
from lanner.accelerators.fpga.batches import Lists
from lanner.accelerators.fpga.ddr3 import Timing
from lanner.accelerators.fpga.streamed import Batch, to_place


class Span(NamedTuple):
    """Cycles."""

    least: int
    most: int


class Gather(NamedTuple):
    """A user's input: rows of the history, and number of seen rows that are sent."""

    rows: Sequence[int]
    seen: int


Runs = Sequence[tuple[int, int]]
"""Addresses and lengths of consecutive reads."""


def read_cycles(timing: Timing, runs: Runs) -> Span:
    """From the cycle in which the memory accepts the first command to that of the last word; 0 without runs."""
    if not runs:
        return Span(0, 0)
    page, pages, changes, before = timing.chip.page, 0, 0, -1
    seen = set[int]()
    for address, length in runs:
        first, last = address // page, (address + length - 1) // page
        changes += last - first + (first != before)
        pages += last - first + (first not in seen)
        seen |= {first, last}
        before = last
    words = sum(length for _, length in runs)
    streamed = (words - 1) * timing.apart + timing.latency
    waits = max(0, timing.row_open - timing.activate - 2)
    opened, reopened = 3 + timing.activate, 4 + timing.precharge + timing.activate + waits
    # Up to one page per bank may already be open.
    least = 1 + streamed + max(0, pages - 1 - timing.chip.banks) * (opened - timing.apart)
    most = reopened + streamed + (changes - 1) * max(0, reopened - timing.apart)
    refresh = 1 + timing.precharge + timing.refresh
    least += least // timing.refresh_every * (refresh - timing.apart)
    longest = refresh + 1 + timing.activate
    most += (most // (timing.refresh_every - longest) + 2) * longest
    return Span(least, most)


def batch_cycles(batch: Batch, timing: Timing, users: Sequence[Gather], lists: Lists) -> Span:
    """From a batch's first word to the last of its answer."""
    sizes = batch.sizes
    least, most = 1, 1
    for user in users:
        runs = [(sizes.items * batch.record + row * sizes.beats, sizes.beats) for row in user.rows]
        read = read_cycles(timing, runs)
        sent = len(user.rows) + user.seen + 2
        # Seen rows are sent once the last history word was taken, which is before the last row is read.
        tail = timing.latency + (sizes.beats - 1) * timing.apart
        least += 2 + max(sent, read.least + 2 if runs else 0)
        most += 2 + max(sent, read.most + 2 + max(0, user.seen + 1 - tail) if runs else 0)
        both = sizes.dimensions + array.LATENCY + requantise.LATENCY + 4
        least, most = least + both, most + both
    read = read_cycles(timing, [(first * batch.record, count * batch.record) for first, count in lists])
    sent = 1 + 3 * len(lists)
    after = 1 + to_place(sizes) + 2 * sizes.k * len(users) + 1
    return Span(
        least + (max(4 + read.least + 1, sent + 1) if lists else 2) + after,
        most + (max(4 + read.most + 1, sent + 1) if lists else 2) + after,
    )
