"""Ten minutes at 70 % of the saturation, half of the recommendations for known users: what grows?"""

from typing import Any

from benchmarks._serving_lengths import Lengths
from benchmarks._serving_load import Load, send
from benchmarks._serving_saturation import figures
from benchmarks._serving_servers import Launcher, Watch, lanner

_SHARE = 0.7
_LOOKS = 200


def measure(launcher: Launcher, lengths: Lengths, saturation: float) -> dict[str, Any]:
    """The first tenth is warm-up; growth compares the last tenth with the second."""
    rate = _SHARE * saturation
    with launcher.running(lanner()) as server, Watch(server, lengths.soak_s / _LOOKS) as watch:
        phases = [(rate, lengths.soak_s)]
        load = Load(server.port, phases, str(launcher.work.requests), 1, server.contender.addresses, by_user=0.5)
        outcome = send(load)
    return {
        "rate_per_s": rate,
        "memory_growth": watch.memory_growth(),
        "descriptor_growth": watch.descriptor_growth(),
        "memory_mib": watch.memory_mib,
        "descriptors": watch.descriptors,
        "requests": figures(outcome, lengths.soak_s),
    }


def summary(found: dict[str, Any]) -> dict[str, float]:
    """Relative growth of memory."""
    return {"soak_memory_growth": found["memory_growth"]}
