"""How many cycles a request takes: exact while the host neither sends nor takes words too slowly.

The register CYCLES counts the same; tests compare both.
"""

from lanner.accelerators.fpga.engine import AGGREGATE_CYCLES, USER_CYCLES, cycles_to_place
from lanner.accelerators.fpga.parameters import Parameters

_HEAD = 4


def request_cycles(parameters: Parameters, history: int, items: int, k: int) -> int:
    """From a request's first word to the last of its answer. history: entries. items: of the catalogue."""
    sizes = parameters
    gather = history * sizes.beats + 1 + AGGREGATE_CYCLES - 2
    user = sizes.dimensions // sizes.requantisers + USER_CYCLES
    catalogue = items * sizes.beats + cycles_to_place(sizes) - 2 + 1
    return _HEAD + gather + user + catalogue + 2 * k + 1
