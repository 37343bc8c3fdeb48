"""The engine on an ECP5: its reset reaches registers by the device's global set/reset network.

As an ordinary net it would have a sink in almost every tile, for which place and route pay in time and in clock.
"""

from amaranth.hdl import ClockDomain, ClockSignal, Instance, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.fpga.engine import WORD, Engine
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.registers import BUS


class EngineOnEcp5(wiring.Component):
    """The ports of ``Engine``; all its registers return to their initial values a few cycles after ``rst``.

    The network is driven as in Amaranth's own platform for this device: through two registers that it does not reset.
    Registers may be released in different cycles, so no word must be offered until a few cycles after ``rst``.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        streams = {"words": In(stream.Signature(WORD)), "answers": Out(stream.Signature(WORD)), "bus": In(BUS)}
        super().__init__({"clk": In(1), "rst": In(1), **streams})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain(reset_less=True)
        m.submodules.engine = engine = Engine(self.parameters)
        for name in ("words", "answers", "bus"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(engine, name))
        once, twice = Signal(), Signal()
        m.d.comb += ClockSignal().eq(self.clk)
        for number, (given, kept) in enumerate(((~self.rst, once), (once, twice))):
            register = Instance("FD1S3AX", p_GSR="DISABLED", i_CK=self.clk, i_D=given, o_Q=kept)
            m.submodules[f"reset{number}"] = register
        m.submodules.network = Instance("SGSR", i_CLK=self.clk, i_GSR=twice)
        return m
