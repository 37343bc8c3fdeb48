"""Products of a text's rows with the weights of a layer, in float32 and in INT8, for processors that have AVX2.

BLAS and the runtimes reach a third to a half of what such a processor can multiply, because a short text has few rows
and every weight is used few times. Here weights lie in the order in which they are read, a panel of 16 outputs after
the other; a tile of a few rows and one panel is summed in registers, and the next panel is asked for meanwhile.

INT8 is whole numbers throughout: a row's codes are 0 … 127 with a scale and a zero of its own, an output's −63 … 63
with a scale (``lanner.models.encoder_codes``). A product of four codes with four then fits 16 bits, so that two of them
are added before they are widened: five instructions for 64 multiplications.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from lanner.models.encoder_codes import HIGHEST
from lanner.prefetch import CACHE_LINE, fetch_line

PANEL = 16
"""Outputs of a panel: two registers of eight."""
STEP = 8
"""Inputs that one step of an INT8 tile takes; widths are padded to a multiple of it."""
_LANES, _REGISTERS = 8, 2
_BYTE, _SHORT, _INT, _LONG, _FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def processor_has_avx2() -> bool:
    """Whether tiles can be multiplied here."""
    return bool(binding.get_host_cpu_features().get("avx2", False))


def _vector(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes)


def _constant(element: Any, lanes: int, number: float) -> Any:
    return ir.Constant(_vector(element, lanes), [number] * lanes)


def _splat(builder: Any, scalar: Any) -> Any:
    """A scalar in every lane."""
    kind = _vector(scalar.type, _LANES)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), _constant(_INT, _LANES, 0))


class _Memory:
    """Reads and writes at addresses, int64."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def at(self, address: Any, bytes_on: Any) -> Any:
        """The address so many bytes on."""
        offset = ir.Constant(_LONG, bytes_on) if isinstance(bytes_on, int) else bytes_on
        return self._builder.add(address, offset)

    def load(self, address: Any, kind: Any) -> Any:
        return self._builder.load(self._builder.inttoptr(address, kind.as_pointer()), align=1)

    def store(self, value: Any, address: Any) -> None:
        self._builder.store(value, self._builder.inttoptr(address, value.type.as_pointer()), align=1)


def _tile(builder: Any, rows: int, element: Any, steps: Any, right: Any, apart: Any, add: Any) -> list[list[Any]]:
    """Sums ``[rows][2]`` of eight numbers. ``add(step, here, sums)`` writes down what one step adds; apart: bytes."""
    zero = _constant(element, _LANES, 0)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(_REGISTERS)] for _ in range(rows)]
    with cgutils.for_range(builder, steps) as loop:
        add(loop.index, builder.add(right, builder.mul(loop.index, apart)), sums)
    return [[builder.load(one) for one in row] for row in sums]


def _fetch_next_panel(builder: Any, here: Any, steps: Any, apart: int) -> None:
    """Ask for what lies behind this panel where ``here`` lies in it: it is as large, and soon wanted."""
    beyond = builder.add(here, builder.mul(steps, ir.Constant(_LONG, apart)))
    for line in range(0, apart, CACHE_LINE):
        fetch_line(builder, builder.add(beyond, ir.Constant(_LONG, line)))


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _tile_of_codes(
    typing_context: Any,
    rows: Any,
    left: Any,
    left_stride: Any,
    right: Any,
    steps: Any,
    row_scale: Any,
    row_zero: Any,
    scale: Any,
    total: Any,
    bias: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """``out = (left · right − zero · total) · row_scale · scale + bias``; all but ``rows`` are addresses and int64."""
    number = rows.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        left_, left_stride_, right_, steps_, row_scale_, row_zero_, *of_columns, out_, out_stride_ = arguments[1:]
        row_left = _rows(builder, left_, left_stride_, number)
        apart = ir.Constant(_LONG, PANEL * STEP)
        add = _add_codes(builder, row_left, steps_)
        sums = _tile(builder, number, _INT, steps_, right_, apart, add)
        memory, ints, floats = _Memory(builder), _vector(_INT, _LANES), _vector(_FLOAT, _LANES)
        for row, row_out in enumerate(_rows(builder, out_, out_stride_, number)):
            own_zero = _splat(builder, memory.load(memory.at(row_zero_, 4 * row), _INT))
            own_scale = _splat(builder, memory.load(memory.at(row_scale_, 4 * row), _FLOAT))
            for register in range(_REGISTERS):
                place = 4 * _LANES * register
                scale_, total_, bias_ = (memory.at(column, place) for column in of_columns)
                whole = builder.sub(sums[row][register], builder.mul(own_zero, memory.load(total_, ints)))
                size = builder.fmul(own_scale, memory.load(scale_, floats))
                value = builder.fmul(builder.sitofp(whole, floats), size)
                memory.store(builder.fadd(value, memory.load(bias_, floats)), memory.at(row_out, place))
        return context.get_dummy_value()

    return types.void(rows, *[types.int64] * 11), generate


def _rows(builder: Any, first: Any, stride: Any, number: int) -> list[Any]:
    """The addresses of rows, each ``stride`` behind the one before."""
    return [builder.add(first, builder.mul(stride, ir.Constant(_LONG, row))) for row in range(number)]


def _add_codes(builder: Any, row_left: Sequence[Any], steps: Any) -> Callable[[Any, Any, Any], None]:
    """What a step adds to the sums of a tile of codes: eight products for each number of a panel."""
    memory, module = _Memory(builder), builder.module
    codes, shorts, ints = _vector(_BYTE, 32), _vector(_SHORT, 16), _vector(_INT, 8)
    of_bytes = ir.FunctionType(shorts, [codes, codes])
    of_shorts = ir.FunctionType(ints, [shorts, shorts])
    pairs = cgutils.get_or_insert_function(module, of_bytes, "llvm.x86.avx2.pmadd.ub.sw")
    fours = cgutils.get_or_insert_function(module, of_shorts, "llvm.x86.avx2.pmadd.wd")
    ones = _constant(_SHORT, 16, 1)

    def add(step: Any, here: Any, sums: Any) -> None:
        _fetch_next_panel(builder, here, steps, PANEL * STEP)
        offset = builder.mul(step, ir.Constant(_LONG, STEP))
        right = [
            [memory.load(memory.at(here, 64 * half + 32 * register), codes) for register in (0, 1)] for half in (0, 1)
        ]
        for row, begun in enumerate(row_left):
            places = [memory.at(builder.add(begun, offset), 4 * half) for half in (0, 1)]
            left = [builder.bitcast(_splat(builder, memory.load(place, _INT)), codes) for place in places]
            for register in range(_REGISTERS):
                both = [builder.call(pairs, [left[half], right[half][register]]) for half in (0, 1)]
                wide = builder.call(fours, [builder.add(*both), ones])
                builder.store(builder.add(builder.load(sums[row][register]), wide), sums[row][register])

    return add


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _tile_of_floats(
    typing_context: Any,
    rows: Any,
    left: Any,
    left_stride: Any,
    right: Any,
    right_stride: Any,
    steps: Any,
    bias: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """``out = left · right + bias``; all but ``rows`` are addresses and int64. bias: 0 for none."""
    number = rows.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, left_, left_stride_, right_, right_stride_, steps_, bias_, out_, out_stride_ = arguments
        memory, floats = _Memory(builder), _vector(_FLOAT, _LANES)
        fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats] * 3), "llvm.fma.v8f32")
        row_left = _rows(builder, left_, left_stride_, number)

        def add(step: Any, here: Any, sums: Any) -> None:
            _fetch_next_panel(builder, here, steps_, 4 * PANEL)
            offset = builder.mul(step, ir.Constant(_LONG, 4))
            weights = [memory.load(memory.at(here, 32 * register), floats) for register in range(_REGISTERS)]
            for row in range(number):
                own = _splat(builder, memory.load(builder.add(row_left[row], offset), _FLOAT))
                for register in range(_REGISTERS):
                    place = sums[row][register]
                    builder.store(builder.call(fused, [own, weights[register], builder.load(place)]), place)

        sums = _tile(builder, number, _FLOAT, steps_, right_, right_stride_, add)
        row_out = _rows(builder, out_, out_stride_, number)
        for row in range(number):
            for register in range(_REGISTERS):
                memory.store(sums[row][register], memory.at(row_out[row], 4 * _LANES * register))
        with builder.if_then(builder.icmp_unsigned("!=", bias_, ir.Constant(_LONG, 0))):
            for register in range(_REGISTERS):
                place = 4 * _LANES * register
                added = memory.load(memory.at(bias_, place), floats)
                for row in range(number):
                    to = memory.at(row_out[row], place)
                    memory.store(builder.fadd(memory.load(to, floats), added), to)
        return context.get_dummy_value()

    return types.void(rows, *[types.int64] * 8), generate


@intrinsic  # type: ignore[untyped-decorator]
def address(typing_context: Any, array: Any, index: Any) -> Any:
    """Of an element of a flat array, or of the first one of a row of a matrix."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        made = context.make_array(array)(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, made.strides)[0]
        return builder.add(builder.ptrtoint(made.data, _LONG), builder.mul(arguments[1], stride))

    return types.int64(array, types.int64), generate


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _multiply_codes(
    codes: Any,
    row_scale: Any,
    row_zero: Any,
    first: Any,
    last: Any,
    weights: Any,
    numbers: Any,
    totals: Any,
    of: Any,
    out: Any,
) -> None:
    weights_at, inputs, outputs, numbers_at, totals_at = of[0], of[1], of[2], of[3], of[4]
    steps, stride, to_stride = inputs // STEP, codes.strides[0], out.strides[0]
    for column in range(0, outputs, PANEL):
        right, total = address(weights, weights_at + column * inputs), address(totals, totals_at + column)
        scale, bias = address(numbers, numbers_at + column), address(numbers, numbers_at + outputs + column)
        row = first
        while row < last:
            left, to = address(codes, row), address(out, row) + 4 * column
            own, zero = address(row_scale, row), address(row_zero, row)
            if last - row >= 4:
                _tile_of_codes(4, left, stride, right, steps, own, zero, scale, total, bias, to, to_stride)
                row += 4
            elif last - row >= 2:
                _tile_of_codes(2, left, stride, right, steps, own, zero, scale, total, bias, to, to_stride)
                row += 2
            else:
                _tile_of_codes(1, left, stride, right, steps, own, zero, scale, total, bias, to, to_stride)
                row += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def panel_of_floats(
    rows: Any,
    left: Any,
    left_stride: Any,
    right: Any,
    right_stride: Any,
    steps: Any,
    bias: Any,
    out: Any,
    out_stride: Any,
) -> None:
    """``out`` ``[rows, 16]`` = ``left`` ``[rows, steps]`` · ``right`` ``[steps, 16]`` + ``bias``, by addresses."""
    row = 0
    while row < rows:
        own, to = left + row * left_stride, out + row * out_stride
        if rows - row >= 6:
            _tile_of_floats(6, own, left_stride, right, right_stride, steps, bias, to, out_stride)
            row += 6
        elif rows - row >= 4:
            _tile_of_floats(4, own, left_stride, right, right_stride, steps, bias, to, out_stride)
            row += 4
        elif rows - row >= 2:
            _tile_of_floats(2, own, left_stride, right, right_stride, steps, bias, to, out_stride)
            row += 2
        else:
            _tile_of_floats(1, own, left_stride, right, right_stride, steps, bias, to, out_stride)
            row += 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _multiply_floats(rows: Any, first: Any, last: Any, weights: Any, numbers: Any, of: Any, out: Any) -> None:
    weights_at, inputs, outputs, numbers_at = of[0], of[1], of[2], of[3]
    left, to = address(rows, first), address(out, first)
    for column in range(0, outputs, PANEL):
        right, bias = address(weights, weights_at + column * inputs), address(numbers, numbers_at + outputs + column)
        panel_of_floats(
            last - first, left, rows.strides[0], right, 4 * PANEL, inputs, bias, to + 4 * column, out.strides[0]
        )


@njit(cache=True, nogil=True, fastmath=True)  # type: ignore[untyped-decorator]
def _round(rows: Any, first: Any, last: Any, width: Any, codes: Any, row_scale: Any, row_zero: Any) -> None:
    """Codes of rows, with the scale and the zero of each; 0 itself has a code of its own."""
    for row in range(first, last):
        numbers = rows[row]
        low, high = np.float32(0), np.float32(0)
        for place in range(width):
            low, high = min(low, numbers[place]), max(high, numbers[place])
        scale = max(high - low, np.float32(1e-30)) / np.float32(HIGHEST)
        zero = np.int32(np.float32(0.5) - low / scale)
        inverse, half_up = np.float32(1) / scale, np.float32(zero) + np.float32(0.5)
        own = codes[row]
        for place in range(width):
            own[place] = np.uint8(min(np.int32(numbers[place] * inverse + half_up), np.int32(HIGHEST)))
        row_scale[row], row_zero[row] = scale, zero


def linear(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> None:
    """``out[r] = weights · rows[r] + bias`` for the rows ``first … last − 1``, in compiled code alone.

    Args:
        rows: float32 ``[R, at least inputs]``, of which ``width`` are read.
        layer: (weights, numbers, totals): panels in INT8 or float32, float32 scales and biases, int32 sums of codes.
        of: int64 ``[5]``: where the weights begin, inputs and outputs (padded), where the scales begin, the biases
            behind them, and where the sums do.
        room: (codes uint8 ``[R, at least inputs]``, row_scale float32 ``[R]``, row_zero int32 ``[R]``), written over.
        out: float32 ``[R, at least outputs]``.
    """


@overload(linear, jit_options={"cache": True, "nogil": True})  # type: ignore[untyped-decorator]
def _linear(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> Any:
    def of_codes(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> None:
        _round(rows, first, last, width, room[0], room[1], room[2])
        _multiply_codes(room[0], room[1], room[2], first, last, layer[0], layer[1], layer[2], of, out)

    def of_floats(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> None:
        _multiply_floats(rows, first, last, layer[0], layer[1], of, out)

    return of_codes if layer[0].dtype == types.int8 else of_floats
