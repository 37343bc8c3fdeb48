"""Durations and sizes of each part of the serving benchmark: in full, and short enough for a test."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lengths:
    """Seconds and counts of every part."""

    catalogues: tuple[int, ...] = (100_000, 1_000_000)
    probe_s: float = 3.0
    """One rate of the search for saturation."""
    refinements: int = 2
    """Rates tried around the best one found by climbing."""
    steady_s: float = 8.0
    calm_s: float = 10.0
    overload_s: float = 60.0
    simulated_s: float = 30.0
    kills: int = 100
    soak_s: float = 600.0
    examples: int = 100
    """Requests that schemathesis generates for each operation."""
    malformed: int = 10_000
    hostile_s: float = 30.0
    """For each kind of hostile client."""


SHORT = Lengths((10_000,), 1.0, 1, 2.0, 2.0, 5.0, 3.0, 3, 20.0, 10, 300, 3.0)
