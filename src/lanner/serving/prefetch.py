"""Rows of a table that are about to be read, asked for ahead: picked out here and there they are not in the cache."""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

AHEAD = 8
"""Rows between asking for one and reading it: memory answers while so many are worked on."""
_CACHE_LINE = 64
_INT8, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


@intrinsic  # type: ignore[untyped-decorator]
def fetch_row(typing_context: Any, table: Any, row: Any) -> Any:
    """Ask for ``table[row]`` of a matrix, for compiled code; a row there is not costs nothing and harms nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        array = context.make_array(table)(context, builder, arguments[0])
        strides = cgutils.unpack_tuple(builder, array.strides)
        address = builder.add(builder.ptrtoint(array.data, _INT64), builder.mul(arguments[1], strides[0]))
        prefetch = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [_INT8.as_pointer(), _INT32, _INT32, _INT32]),
            "llvm.prefetch.p0",
        )
        read, keep, data = (ir.Constant(_INT32, number) for number in (0, 3, 1))
        lines = builder.udiv(builder.add(strides[0], ir.Constant(_INT64, 2 * _CACHE_LINE - 2)), _line())
        with cgutils.for_range(builder, lines) as loop:
            line = builder.add(address, builder.mul(loop.index, _line()))
            builder.call(prefetch, [builder.inttoptr(line, _INT8.as_pointer()), read, keep, data])

    return types.void(table, types.int64), generate


def _line() -> Any:
    return ir.Constant(_INT64, _CACHE_LINE)
