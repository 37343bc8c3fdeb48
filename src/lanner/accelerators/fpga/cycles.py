"""Cycle model of a request: exact while the host neither sends nor takes words too slowly.

The register CYCLES counts the same; tests compare them.
"""

from lanner.accelerators.fpga.engine import AGGREGATE_CYCLES, USER_CYCLES, cycles_to_place
from lanner.accelerators.fpga.parameters import Parameters

_HEAD = 4


def request_cycles(parameters: Parameters, history: int, items: int, k: int, entries: int = 0) -> int:
    """From a request's first word to the last of its answer.

    history: number of history items. items: catalogue size. entries: total entries of the history's item-to-item rows.
    """
    sizes = parameters
    gather = history * (sizes.beats + sizes.item_to_item) + entries + sizes.item_to_item + 1 + AGGREGATE_CYCLES - 2
    user = sizes.dimensions // sizes.requantisers + USER_CYCLES
    catalogue = items * sizes.beats + cycles_to_place(sizes) - 2 + 1
    return _HEAD + gather + user + catalogue + 2 * k + 1
