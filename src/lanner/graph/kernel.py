"""The hot path: rows of a sparse matrix times a dense one, on every core of a CPU.

``out[r] = Σ_e values[e] · features[indices[e]]`` over the edges e of row r. Each row is summed by one thread in the
order of its edges, so that the result is the same bit for bit whatever the number of threads.

Numba's own loop would load and store the running sum at every edge. The LLVM written here keeps the sum of a tile of
columns in vector registers along the whole row, and asks for the neighbours of the edges ahead (of the next
rows, too) before they are needed.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from lanner.prefetch import CACHE_LINE, fetch_line

_AHEAD = 24
"""Edges between asking for a neighbour and adding it: a row of a cold cache takes about as long to arrive."""
_FLOAT, _DOUBLE, _INT16, _INT32, _INT64 = (
    ir.FloatType(),
    ir.DoubleType(),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
)


def _is_half(features: Any) -> bool:
    """bfloat16 travels as its bits in int16, which is what NumPy can hold."""
    return bool(features.dtype == types.int16)


def _splat(builder: Any, scalar: Any, width: int) -> Any:
    vector = ir.VectorType(scalar.type, width)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT32, 0))
    return builder.shuffle_vector(
        first, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_INT32, width), [0] * width)
    )


def _constant(element: Any, width: int, number: float) -> Any:
    return ir.Constant(ir.VectorType(element, width), [number] * width)


def _load(builder: Any, pointer: Any, width: int, half: bool, element: Any) -> Any:
    """``width`` numbers as the type they are summed in."""
    stored = ir.VectorType(_INT16 if half else element, width)
    loaded = builder.load(builder.bitcast(pointer, stored.as_pointer()), align=2 if half else 4)
    if not half:
        return loaded
    wide = builder.zext(loaded, ir.VectorType(_INT32, width))
    return builder.bitcast(builder.shl(wide, _constant(_INT32, width, 16)), ir.VectorType(_FLOAT, width))


def _rounded(builder: Any, total: Any, width: int) -> Any:
    """float32 to the nearest bfloat16, ties to even, as bits."""
    bits = builder.bitcast(total, ir.VectorType(_INT32, width))
    sixteen = _constant(_INT32, width, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), _constant(_INT32, width, 1))
    nearest = builder.add(builder.add(bits, odd), _constant(_INT32, width, 0x7FFF))
    # Rounding would carry the largest NaNs over into numbers.
    is_nan = builder.fcmp_unordered("uno", total, total)
    chosen = builder.select(is_nan, _constant(_INT32, width, 0x7FC00000), nearest)
    return builder.trunc(builder.lshr(chosen, sixteen), ir.VectorType(_INT16, width))


def _prefetch(builder: Any, pointer: Any, size: int) -> None:
    address = builder.ptrtoint(pointer, _INT64)
    for offset in range(0, size, CACHE_LINE):
        fetch_line(builder, builder.add(address, ir.Constant(_INT64, offset)))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _sum_row(
    typing_context: Any,
    width: Any,
    row: Any,
    column: Any,
    first: Any,
    last: Any,
    indices: Any,
    values: Any,
    features: Any,
    out: Any,
) -> Any:
    """``out[row, column : column + width]`` from the edges ``first … last − 1``; ``width`` is a literal."""
    lanes, half, weighted = width.literal_value, _is_half(features), not isinstance(values, types.NoneType)
    element: Any = _DOUBLE if features.dtype == types.float64 else _FLOAT
    signature = types.void(width, types.int64, types.int64, types.int64, types.int64, indices, values, features, out)

    def generate(context: Any, builder: Any, sig: Any, arguments: Any) -> Any:
        _, row_, column_, first_, last_, *arrays = arguments
        make: Any = lambda kind, value: context.make_array(kind)(context, builder, value)  # noqa: E731
        indices_, features_, out_ = make(indices, arrays[0]), make(features, arrays[2]), make(out, arrays[3])
        stride = builder.extract_value(features_.shape, 1)
        final_edge = builder.sub(builder.extract_value(indices_.shape, 0), ir.Constant(_INT64, 1))

        def neighbour(edge: Any) -> Any:
            index = builder.sext(builder.load(builder.gep(indices_.data, [edge])), _INT64)
            return builder.gep(features_.data, [builder.add(builder.mul(index, stride), column_)])

        total = cgutils.alloca_once(builder, ir.VectorType(element, lanes))
        builder.store(_constant(element, lanes, 0.0), total)
        with cgutils.for_range_slice(builder, first_, last_, ir.Constant(_INT64, 1), _INT64) as (edge, _count):
            ahead = builder.add(edge, ir.Constant(_INT64, _AHEAD))
            within = builder.icmp_signed("<", ahead, final_edge)
            size = lanes * {types.int16: 2, types.float64: 8}.get(features.dtype, 4)
            _prefetch(builder, neighbour(builder.select(within, ahead, final_edge)), size)
            term = _load(builder, neighbour(edge), lanes, half, element)
            if weighted:
                weight = builder.load(builder.gep(make(values, arrays[1]).data, [edge]))
                weight = builder.fpext(weight, _DOUBLE) if element is _DOUBLE else weight
                term = builder.fmul(term, _splat(builder, weight, lanes), flags=("contract",))
            builder.store(builder.fadd(builder.load(total), term, flags=("contract",)), total)
        result = builder.load(total)
        result = _rounded(builder, result, lanes) if half else result
        place = builder.gep(out_.data, [builder.add(builder.mul(row_, stride), column_)])
        builder.store(result, builder.bitcast(place, result.type.as_pointer()), align=2 if half else 4)
        return context.get_dummy_value()

    return signature, generate


@njit(parallel=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def multiply(chunks: Any, indptr: Any, indices: Any, values: Any, features: Any, out: Any) -> None:
    """Write ``out`` ``[rows, D]`` = CSR ``[rows, columns]`` times ``features`` ``[columns, D]``.

    features and out are C-contiguous and of one type: float32, float64, or int16 for the bits of bfloat16 (summed
    in float32). values: float32 ``[E]`` or None. chunks: int64, the first row of each run that one thread takes.
    """
    # All columns at once, 128 at a time: passes over narrower tiles, whose features fit a cache, were always slower.
    width = features.shape[1]
    for chunk in prange(len(chunks) - 1):
        for row in range(chunks[chunk], chunks[chunk + 1]):
            first, last = indptr[row], indptr[row + 1]
            column = 0
            while column + 128 <= width:
                _sum_row(128, row, column, first, last, indices, values, features, out)
                column += 128
            if column + 64 <= width:
                _sum_row(64, row, column, first, last, indices, values, features, out)
                column += 64
            if column + 32 <= width:
                _sum_row(32, row, column, first, last, indices, values, features, out)
                column += 32
            if column + 16 <= width:
                _sum_row(16, row, column, first, last, indices, values, features, out)
                column += 16
            while column < width:
                _sum_row(1, row, column, first, last, indices, values, features, out)
                column += 1
