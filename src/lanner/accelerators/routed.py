"""The designs that were placed and routed; a test holds them against benchmarks/results/fpga.json."""

LANES = 16
"""Lanes of the smaller one, on the ECP5-25F, for which an emulator stands."""
MHZ = {"ecp5-25f": 93.0, "ecp5-85f": 72.0}
"""The clock that each device was routed at."""
