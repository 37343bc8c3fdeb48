"""The accelerator in Amaranth: the integer contract of ``accelerators/contract.py`` in hardware, one module per file.

``engine.py`` is the top level; ``protocol.py`` builds the words sent to it. Needs the extra ``fpga``.
"""
