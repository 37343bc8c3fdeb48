"""Figure 3: three times the load that saturates, for a minute, against the same engine with a fixed batch window."""

from typing import Any

import numpy as np

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import RECOMMEND, VARIANTS, Load, Outcome, send
from benchmarks._serving_servers import DEADLINE_MS, FIXED_WINDOW, Contender, Launcher, Watch, lanner

_TIMES = 3.0
_CALM = 0.15
"""Share of the saturation before and after the overload. Most of the saturation is the one list for everybody; of
personal answers 596 a second were in time at best of 1,944 altogether, and this is half of them."""
_BETWEEN_LOOKS_S = 5.0
"""To add up a process's pages takes it tens of milliseconds, in which it answers nobody."""
_BACK = 0.95
"""The ladder is climbed again in the first second of which this share is answered by the top rung."""


def measure(launcher: Launcher, lengths: Lengths, saturation: float) -> dict[str, Any]:
    """saturation: the goodput and rate of Lanner's that the multiples are of."""
    return {
        "saturation_per_s": saturation,
        "ladder": _overloaded(launcher, lanner(), lengths, saturation),
        "fixed-window": _overloaded(launcher, lanner(*FIXED_WINDOW), lengths, saturation),
    }


def _overloaded(launcher: Launcher, contender: Contender, lengths: Lengths, saturation: float) -> dict[str, Any]:
    calm, over = lengths.calm_s, lengths.overload_s
    phases = [(_CALM * saturation, calm), (_TIMES * saturation, over), (_CALM * saturation, calm)]
    with launcher.running(contender) as server, Watch(server, _BETWEEN_LOOKS_S) as watch:
        load = Load(server.port, phases, str(launcher.work.requests), 1, contender.addresses)
        outcome = send(load).of_kind(RECOMMEND)
    during = outcome.within(calm, calm + over)
    after = outcome.within(calm + over, 2 * calm + over)
    return {
        "before": outcome.within(0, calm).figures(calm, DEADLINE_MS / 1e3),
        "during": during.figures(over, DEADLINE_MS / 1e3),
        "after": after.figures(calm, DEADLINE_MS / 1e3),
        "recovered_s": _recovered(after, calm + over),
        "memory_growth": watch.memory_growth(),
        "memory_mib": watch.memory_mib,
    }


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Goodput during the overload over the saturated one, and over the fixed window's."""
    ours, theirs = (found[name]["during"]["goodput_per_s"] for name in ("ladder", "fixed-window"))
    return {
        "overload_goodput_kept": ours / found["saturation_per_s"],
        "overload_over_fixed_window": ours / max(theirs, 1e-9),
    }


def _recovered(after: Outcome, ended_s: float) -> float | None:
    """Seconds until the beginning of the first whole second that the top rung answers; None: it never does."""
    seconds = (after.due_s - ended_s).astype(np.int64)
    is_top = after.answered & (after.variant == VARIANTS.index("full"))
    for second in range(int(seconds.max(initial=-1)) + 1):
        asked = seconds == second
        if asked.any() and is_top[asked].mean() >= _BACK:
            return float(second)
    return None
