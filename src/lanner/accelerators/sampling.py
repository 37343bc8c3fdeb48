"""Reference model (oracle) of the hardware neighbour sampler.

A node of degree d gets ``min(d, fanout)`` distinct neighbours by Floyd's algorithm (Bentley & Floyd, CACM 1987): for
j = d − fanout … d − 1, draw t from 0 … j and take t, or j where t was taken before. Every subset is equally likely.
Draws are xorshift32 (Marsaglia, 2003), mapped to 0 … j by the high half of a 64-bit product; bias at most d / 2^32.
"""

WORD = 2**32 - 1
MAX_FANOUT = 16


def next_state(state: int) -> int:
    """xorshift32; its period is 2^32 − 1, and 0 stays 0."""
    state ^= state << 13 & WORD
    state ^= state >> 17
    return state ^ (state << 5 & WORD)


def sample(state: int, degree: int, fanout: int) -> tuple[list[int], int]:
    """Indices into the node's neighbour list (all if there are at most ``fanout``), and the generator's next state.

    state: 1 … 2^32 − 1. fanout: 0 for none; more than ``MAX_FANOUT`` counts as ``MAX_FANOUT``.
    """
    fanout = min(fanout, MAX_FANOUT)
    if degree <= fanout:
        return list(range(degree)), state
    taken: list[int] = []
    for last in range(degree - fanout, degree):
        state = next_state(state)
        place = state * (last + 1) >> 32
        taken.append(last if place in taken else place)
    return taken, state
