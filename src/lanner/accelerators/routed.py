"""The placed and routed designs; a test compares them with benchmarks/results/fpga.json."""

DIMENSIONS, K = 64, 10
LANES = {"ecp5-25f": 16, "ecp5-85f": 64}
ROWS = {"ecp5-25f": 1024, "ecp5-85f": 4096}
"""Of the design on each device; none has an item-to-item part."""
COMMIT = {"ecp5-25f": "ba6f6b5", "ecp5-85f": "ba6f6b5"}
"""Of the sources of each design."""

MHZ = {"ecp5-25f": 96.0, "ecp5-85f": 96.0}
"""Clock achieved by place and route on each device."""
