"""Runs of words from external memory, by LiteDRAM's native port: a command a cycle while the controller takes them.

Words arrive in command order and without back-pressure, as LiteDRAM requires; the consumer must keep up with the
memory.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

ADDRESS_BITS = 26
BURST = data.StructLayout({"address": ADDRESS_BITS, "count": ADDRESS_BITS, "tag": 20})
"""count: number of words, at least 1. tag: returned with each word."""
_UNDER_WAY = 32
"""Maximum bursts in flight: more than the controller's queue and latency can hold of the shortest ones."""


def port(word_bits: int) -> wiring.Signature:
    """The read part of LiteDRAM's native port; ``cmd.we`` is 0."""
    return wiring.Signature(
        {"cmd": Out(stream.Signature(ADDRESS_BITS)), "rdata": In(stream.Signature(word_bits, always_ready=True))}
    )


class BurstReader(wiring.Component):
    """bursts: what to read. word: with the tag of its burst; first, last: of the burst. idle: nothing is pending."""

    def __init__(self, word_bits: int) -> None:
        words = {"valid": 1, "first": 1, "last": 1, "tag": 20, "data": word_bits}
        super().__init__(
            {
                "bursts": In(stream.Signature(BURST)),
                "port": Out(port(word_bits)),
                "word": Out(data.StructLayout(words)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.due = due = SyncFIFO(width=ADDRESS_BITS + 20, depth=_UNDER_WAY)
        cmd, burst, rdata = self.port.cmd, self.bursts.payload, self.port.rdata
        left, arrived = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
        asked = cmd.valid & cmd.ready
        m.d.comb += [
            cmd.valid.eq(left != 0),
            self.bursts.ready.eq(due.w_rdy & ((left == 0) | ((left == 1) & cmd.ready))),
            due.w_en.eq(self.bursts.valid & self.bursts.ready),
        ]
        m.d.comb += [due.w_data[:20].eq(burst.tag), due.w_data[20:].eq(burst.count)]
        with m.If(asked):
            m.d.sync += [cmd.payload.eq(cmd.payload + 1), left.eq(left - 1)]
        with m.If(due.w_en):
            m.d.sync += [cmd.payload.eq(burst.address), left.eq(burst.count)]
        last = arrived + 1 == due.r_data[20:]
        m.d.comb += [
            self.word.valid.eq(rdata.valid),
            self.word.data.eq(rdata.payload),
            self.word.tag.eq(due.r_data[:20]),
            self.word.first.eq(arrived == 0),
            self.word.last.eq(last),
            due.r_en.eq(rdata.valid & last),
            self.idle.eq((left == 0) & ~due.r_rdy),
        ]
        with m.If(rdata.valid):
            m.d.sync += arrived.eq(Mux(last, 0, arrived + 1))
        return m
