"""The placed and routed designs; a test compares them with benchmarks/results/fpga.json."""

LANES = 16
"""Lanes of the smaller design, on the ECP5-25F, which is the one emulated."""
MHZ = {"ecp5-25f": 99.0, "ecp5-85f": 70.0}
"""Clock achieved by place and route on each device."""
