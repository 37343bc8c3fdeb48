"""Memory that compiled code is about to read, asked for ahead: what is picked out here and there is in no cache."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 8
"""Rows between asking for one and reading it: memory answers while so many are worked on."""
CACHE_LINE = 64
"""Bytes that one request fetches."""
_BYTE, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def fetch_line(builder: Any, address: Any) -> None:
    """Ask for the line of ``address``, an int64; one that is not there costs nothing and harms nothing."""
    prefetch = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT32, _INT32, _INT32]),
        "llvm.prefetch.p0",
    )
    read, keep, data = (ir.Constant(_INT32, number) for number in (0, 3, 1))
    builder.call(prefetch, [builder.inttoptr(address, _BYTE.as_pointer()), read, keep, data])


@intrinsic  # type: ignore[untyped-decorator]
def fetch_row(typing_context: Any, table: Any, row: Any) -> Any:
    """Ask for ``table[row]`` of a matrix, whether it is there or not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        array = context.make_array(table)(context, builder, arguments[0])
        strides = cgutils.unpack_tuple(builder, array.strides)
        address = builder.add(builder.ptrtoint(array.data, _INT64), builder.mul(arguments[1], strides[0]))
        line = ir.Constant(_INT64, CACHE_LINE)
        # A row seldom begins where a line does.
        lines = builder.udiv(builder.add(strides[0], ir.Constant(_INT64, 2 * CACHE_LINE - 2)), line)
        with cgutils.for_range(builder, lines) as loop:
            fetch_line(builder, builder.add(address, builder.mul(loop.index, line)))

    return types.void(table, types.int64), generate
