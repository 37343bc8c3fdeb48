"""Three times the saturating load for a minute: goodput during it, and recovery afterwards, by variant."""

from typing import Any

import numpy as np

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import RECOMMEND, VARIANTS, Load, Outcome, send
from benchmarks._serving_servers import DEADLINE_MS, Launcher, Watch, lanner

_TIMES = 3.0
_CALM = 0.15
"""Share of the saturation before and after the overload: low enough for the full variant alone."""
_BETWEEN_LOOKS_S = 5.0
"""Summing a process's pages takes it tens of milliseconds, during which it answers nothing."""
_BACK = 0.95
"""The server has recovered in the first second in which the full variant gives this share of the answers."""


def measure(launcher: Launcher, lengths: Lengths, saturation: float) -> dict[str, Any]:
    """saturation: goodput in answers a second, to which the multiples refer."""
    calm, over, contender = lengths.calm_s, lengths.overload_s, lanner()
    phases = [(_CALM * saturation, calm), (_TIMES * saturation, over), (_CALM * saturation, calm)]
    with launcher.running(contender) as server, Watch(server, _BETWEEN_LOOKS_S) as watch:
        load = Load(server.port, phases, str(launcher.work.requests), 1, contender.addresses)
        outcome = send(load).of_kind(RECOMMEND)
    during = outcome.within(calm, calm + over)
    after = outcome.within(calm + over, 2 * calm + over)
    return {
        "saturation_per_s": saturation,
        "before": outcome.within(0, calm).figures(calm, DEADLINE_MS / 1e3),
        "during": during.figures(over, DEADLINE_MS / 1e3),
        "after": after.figures(calm, DEADLINE_MS / 1e3),
        "recovered_s": _recovered(after, calm + over),
        "memory_growth": watch.memory_growth(),
        "memory_mib": watch.memory_mib,
    }


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Answers in time during the overload, of any kind and personal ones, over those of any kind at saturation."""
    return {
        "overload_goodput_kept": found["during"]["goodput_per_s"] / found["saturation_per_s"],
        "overload_personal_kept": found["during"]["personal_goodput_per_s"] / found["saturation_per_s"],
    }


def _recovered(after: Outcome, ended_s: float) -> float | None:
    """Seconds until the start of the first whole second answered by the full variant; None: there is none."""
    seconds = (after.due_s - ended_s).astype(np.int64)
    is_full = after.answered & (after.variant == VARIANTS.index("full"))
    for second in range(int(seconds.max(initial=-1)) + 1):
        asked = seconds == second
        if asked.any() and is_full[asked].mean() >= _BACK:
            return float(second)
    return None
