"""The accelerator in Amaranth: the integer contract of ``accelerators/contract.py`` in hardware, one module a file.

``engine.py`` is the whole of it; ``protocol.py`` makes the words it is sent. Needs the extra ``fpga``.
"""
