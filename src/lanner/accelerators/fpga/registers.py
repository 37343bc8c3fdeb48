"""The control registers, on a Wishbone bus (classic cycles, 32-bit words); see ``protocol.Register``."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lanner.accelerators.contract import ROW_BITS
from lanner.accelerators.fpga.parameters import Parameters
from lanner.accelerators.fpga.protocol import VERSION, Register, Status

STATUS_BITS = max(Status).bit_length()
WRITABLE = (Register.ITEMS, Register.TARGET_BASE, Register.CONTRACT)

BUS = wiring.Signature(
    {"cyc": Out(1), "stb": Out(1), "we": Out(1), "adr": Out(4), "dat_w": Out(32), "dat_r": In(32), "ack": In(1)}
)


class Registers(wiring.Component):
    """busy: a packet is under way. raised: status bits to set. cycles: of the last request."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.status = Signal(STATUS_BITS)
        super().__init__(
            {
                "bus": In(BUS),
                "busy": In(1),
                "raised": In(STATUS_BITS),
                "cycles": In(32),
                "items": Out(ROW_BITS + 1, init=parameters.items),
                "target_base": Out(ROW_BITS + 1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sizes, bus = self.parameters, self.bus
        status, contract = self.status, Signal(32)
        stored = {Register.ITEMS: self.items, Register.TARGET_BASE: self.target_base, Register.CONTRACT: contract}
        fits = {
            Register.ITEMS: (bus.dat_w != 0) & (bus.dat_w <= sizes.items),
            Register.TARGET_BASE: bus.dat_w < sizes.rows,
            Register.CONTRACT: Const(1),
        }
        write, refused, cleared = Signal(), Signal(STATUS_BITS), Signal(STATUS_BITS)
        m.d.comb += write.eq(bus.cyc & bus.stb & bus.we & ~bus.ack)
        m.d.sync += bus.ack.eq(bus.cyc & bus.stb & ~bus.ack)
        with m.If(write):
            with m.Switch(bus.adr):
                with m.Case(int(Register.STATUS)):
                    m.d.comb += cleared.eq(bus.dat_w)
                for register in WRITABLE:
                    with m.Case(int(register)):
                        with m.If(self.busy):
                            m.d.comb += refused.eq(int(Status.WRITE_WHILE_BUSY))
                        with m.Elif(~fits[register]):
                            m.d.comb += refused.eq(int(Status.ROW_OUT_OF_RANGE))
                        with m.Else():
                            m.d.sync += stored[register].eq(bus.dat_w)
        m.d.sync += status.eq((status & ~cleared) | self.raised | refused)
        readable = stored | {
            Register.VERSION: Const(VERSION),
            Register.STATUS: Cat(self.busy, status[1:]),
            Register.SIZES: Cat(Const(sizes.dimensions, 12), Const(sizes.lanes, 12), Const(sizes.k, 8)),
            Register.CYCLES: self.cycles,
        }
        with m.Switch(bus.adr):
            for register, value in readable.items():
                with m.Case(int(register)):
                    m.d.sync += bus.dat_r.eq(value)
        return m
