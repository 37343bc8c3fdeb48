"""Products of a text's rows with the weights of a layer, in float32 and in INT8, for processors that have AVX2.

BLAS and the runtimes reach a third to a half of what such a processor can multiply, because a short text has few rows
and every weight is used few times. Here weights lie in the order in which they are read, a panel of some outputs after
the other; a tile of a few rows and one panel is summed in registers, and the next panel is asked for meanwhile.

INT8 is whole numbers throughout: a row's codes are 0 … 127 with a scale and a zero of its own, an output's −63 … 63
with a scale that keeps the sums of a block within 16 bits (``lanner.models.encoder_codes``). So four products are added
before they are widened: nine instructions for 128 multiplications. What bounds them is the instructions that a core
takes in, so a panel is as wide as its sums fit the registers: each number that comes in is read once for 32 outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from lanner.models.encoder_codes import BLOCK, HIGHEST
from lanner.prefetch import CACHE_LINE, fetch_line

binding.initialize_native_asmparser()

PANEL = 16
"""Outputs of a panel of floats: two registers of eight."""
PANEL_OF_CODES = 32
_LANES, _REGISTER = 8, 32
"""Numbers and bytes of a register."""
_ROWS_OF_CODES = 2
"""Of a tile of codes; with four registers of sums each."""
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


def _tile(builder: Any, rows: int, registers: int, element: Any, steps: Any, add: Any) -> list[list[Any]]:
    """Sums ``[rows][registers]`` of eight numbers. ``add(step, sums)`` writes down what one step adds."""
    zero = _constant(element, _LANES, 0)
    sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(registers)] for _ in range(rows)]
    with cgutils.for_range(builder, steps) as loop:
        add(loop.index, sums)
    return [[builder.load(one) for one in row] for row in sums]


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _tile_of_codes(
    typing_context: Any,
    rows: Any,
    left: Any,
    left_stride: Any,
    right: Any,
    steps: Any,
    ahead: Any,
    row_scale: Any,
    row_shift: Any,
    scale: Any,
    total: Any,
    bias: Any,
    out: Any,
    out_stride: Any,
) -> Any:
    """``out = left · right · row_scale · scale − row_shift · total + bias``; all but ``rows`` are addresses and int64.

    ahead: what will be read soon, of which each step asks for a line.
    """
    number = rows.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, left_, left_stride_, right_, steps_, ahead_, row_scale_, row_shift_, *columns, out_, stride_ = arguments
        add = _add_codes(builder, _rows(builder, left_, left_stride_, number), right_, ahead_)
        sums = _tile(builder, number, PANEL_OF_CODES // _LANES, _INT, steps_, add)
        memory, floats = _Memory(builder), _vector(_FLOAT, _LANES)
        fused = cgutils.get_or_insert_function(builder.module, ir.FunctionType(floats, [floats] * 3), "llvm.fma.v8f32")
        for row, row_out in enumerate(_rows(builder, out_, stride_, number)):
            own_scale = _splat(builder, memory.load(memory.at(row_scale_, 4 * row), _FLOAT))
            own_shift = _splat(builder, memory.load(memory.at(row_shift_, 4 * row), _FLOAT))
            for register, whole in enumerate(sums[row]):
                place = 4 * _LANES * register
                scale_, total_, bias_ = (memory.load(memory.at(column, place), floats) for column in columns)
                rest = builder.fsub(bias_, builder.fmul(own_shift, total_))
                value = builder.call(fused, [builder.sitofp(whole, floats), builder.fmul(own_scale, scale_), rest])
                memory.store(value, memory.at(row_out, place))
        return context.get_dummy_value()

    return types.void(rows, *[types.int64] * 12), generate


def _rows(builder: Any, first: Any, stride: Any, number: int) -> list[Any]:
    """The addresses of rows, each ``stride`` behind the one before."""
    return [builder.add(first, builder.mul(stride, ir.Constant(_LONG, row))) for row in range(number)]


def _add_codes(
    builder: Any, row_left: Sequence[Any], right: Any, ahead: Any
) -> Callable[[Any, Sequence[Sequence[Any]]], None]:
    """What a step adds to the sums of a tile of codes: ``BLOCK`` products for each number of a panel."""
    memory, sum_, shorts = _Memory(builder), _vector(_INT, _LANES), _vector(_SHORT, 2 * _LANES)
    ones = _constant(_SHORT, 2 * _LANES, 1)

    def add(step: Any, sums: Sequence[Sequence[Any]]) -> None:
        here = builder.add(right, builder.mul(step, ir.Constant(_LONG, PANEL_OF_CODES * BLOCK)))
        fetch_line(builder, builder.add(ahead, builder.mul(step, ir.Constant(_LONG, CACHE_LINE))))
        for begun, row in zip(row_left, sums, strict=True):
            place = builder.add(begun, builder.mul(step, ir.Constant(_LONG, BLOCK)))
            fours = [_splat(builder, memory.load(memory.at(place, 4 * four), _INT)) for four in range(BLOCK // 4)]
            for register, total in enumerate(row):
                places = [_REGISTER * (len(row) * four + register) for four in range(len(fours))]
                kinds = [sum_, *[sum_] * len(fours), shorts, _LONG]
                text, constraints = _products(places)
                assembly = ir.InlineAsm(ir.FunctionType(ir.LiteralStructType([sum_] * 3), kinds), text, constraints)
                got = builder.call(assembly, [builder.load(total), *fours, ones, here])
                builder.store(builder.extract_value(got, 0), total)

    return add


def _products(places: Sequence[int]) -> tuple[str, str]:
    """Instructions that add the products of some fours of codes with weights that lie so many bytes on.

    Left to itself, the compiler keeps the weights of a step in registers, for the next row, and the sums in memory. It
    is not told what memory they read, for nobody writes there.
    """
    sums, both, one = "$0", "$1", "$2"
    fours = [f"${4 + number}" for number in range(len(places))]
    ones, weights = (f"${4 + len(places) + number}" for number in (0, 1))
    lines = []
    for into, four, place in zip((both, *[one] * len(places)), fours, places, strict=False):
        lines.append(f"vpmaddubsw {place}({weights}), {four}, {into}")
        if into == one:
            lines.append(f"vpaddw {one}, {both}, {both}")
    lines += [f"vpmaddwd {ones}, {both}, {both}", f"vpaddd {both}, {sums}, {sums}"]
    return "\n".join(lines), ",".join(["=x,=&x,=&x,0", *["x"] * len(places), "x,r"])


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

        def add(step: Any, sums: Any) -> None:
            here = builder.add(right_, builder.mul(step, right_stride_))
            # The next panel is as large, and soon wanted.
            fetch_line(builder, builder.add(here, builder.mul(steps_, ir.Constant(_LONG, 4 * PANEL))))
            offset = builder.mul(step, ir.Constant(_LONG, 4))
            weights = [memory.load(memory.at(here, 32 * register), floats) for register in range(PANEL // _LANES)]
            for row in range(number):
                own = _splat(builder, memory.load(builder.add(row_left[row], offset), _FLOAT))
                for register in range(PANEL // _LANES):
                    place = sums[row][register]
                    builder.store(builder.call(fused, [own, weights[register], builder.load(place)]), place)

        sums = _tile(builder, number, PANEL // _LANES, _FLOAT, steps_, add)
        row_out = _rows(builder, out_, out_stride_, number)
        for row in range(number):
            for register in range(PANEL // _LANES):
                memory.store(sums[row][register], memory.at(row_out[row], 4 * _LANES * register))
        with builder.if_then(builder.icmp_unsigned("!=", bias_, ir.Constant(_LONG, 0))):
            for register in range(PANEL // _LANES):
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


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _multiply_codes(
    codes: Any, row_scale: Any, row_shift: Any, first: Any, last: Any, weights: Any, numbers: Any, of: Any, out: Any
) -> None:
    weights_at, inputs, outputs, numbers_at = of[0], of[1], of[2], of[3]
    steps, stride, to_stride = inputs // BLOCK, codes.strides[0], out.strides[0]
    for column in range(0, outputs, PANEL_OF_CODES):
        right, scale = address(weights, weights_at + column * inputs), address(numbers, numbers_at + column)
        total, bias = scale + 4 * outputs, scale + 8 * outputs
        # The first tiles together ask for the next panel, evenly; what later ones ask for is there.
        ahead, end = right + PANEL_OF_CODES * inputs, right + 2 * PANEL_OF_CODES * inputs
        for row in range(first, last, _ROWS_OF_CODES):
            left, to = address(codes, row), address(out, row) + 4 * column
            own, shift = address(row_scale, row), address(row_shift, row)
            soon = ahead if ahead < end else right
            if last - row >= 2:
                _tile_of_codes(2, left, stride, right, steps, soon, own, shift, scale, total, bias, to, to_stride)
            else:
                _tile_of_codes(1, left, stride, right, steps, soon, own, shift, scale, total, bias, to, to_stride)
            ahead += steps * CACHE_LINE


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
        right, bias = address(weights, weights_at + column * inputs), address(numbers, numbers_at + column)
        panel_of_floats(
            last - first, left, rows.strides[0], right, 4 * PANEL, inputs, bias, to + 4 * column, out.strides[0]
        )


@intrinsic  # type: ignore[untyped-decorator]
def bounds(typing_context: Any, first: Any, count: Any) -> Any:
    """(smallest, largest) of ``count`` ≥ 1 float32 at an address.

    Written down by lanes, for the compiler makes a chain of such a loop: it may not take the numbers in another order.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        memory, floats, (begun, number) = _Memory(builder), _vector(_FLOAT, _LANES), arguments

        def meet(sign: str, place: Any, seen: Any) -> None:
            known = builder.load(place)
            builder.store(builder.select(builder.fcmp_ordered(sign, seen, known), seen, known), place)

        start = _splat(builder, memory.load(begun, _FLOAT))
        lanes = [cgutils.alloca_once_value(builder, start) for _ in "<>"]
        with cgutils.for_range(builder, builder.udiv(number, ir.Constant(_LONG, _LANES))) as loop:
            seen = memory.load(memory.at(begun, builder.mul(loop.index, ir.Constant(_LONG, _REGISTER))), floats)
            for sign, place in zip("<>", lanes, strict=True):
                meet(sign, place, seen)
        for apart in (4, 2, 1):
            others = ir.Constant(_vector(_INT, _LANES), [lane ^ apart for lane in range(_LANES)])
            for sign, place in zip("<>", lanes, strict=True):
                known = builder.load(place)
                meet(sign, place, builder.shuffle_vector(known, known, others))
        found = [builder.extract_element(builder.load(place), ir.Constant(_INT, 0)) for place in lanes]
        rest = [cgutils.alloca_once_value(builder, one) for one in found]
        whole = builder.and_(number, ir.Constant(_LONG, -_LANES))
        with cgutils.for_range(builder, builder.sub(number, whole)) as loop:
            at = builder.mul(builder.add(whole, loop.index), ir.Constant(_LONG, 4))
            for sign, place in zip("<>", rest, strict=True):
                meet(sign, place, memory.load(memory.at(begun, at), _FLOAT))
        return context.make_tuple(builder, signature.return_type, [builder.load(one) for one in rest])

    return types.UniTuple(types.float32, 2)(types.int64, types.int64), generate


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _round(rows: Any, first: Any, last: Any, width: Any, codes: Any, row_scale: Any, row_shift: Any) -> None:
    """Codes of rows, with the scale of each and its zero times that; 0 itself has a code of its own."""
    for row in range(first, last):
        low, high = bounds(address(rows, row), width)
        low, high = min(low, np.float32(0)), max(high, np.float32(0))
        scale = max(high - low, np.float32(1e-30)) / np.float32(HIGHEST)
        zero = np.float32(np.int32(np.float32(0.5) - low / scale))
        inverse, half_up = np.float32(1) / scale, zero + np.float32(0.5)
        for place in range(width):
            code = np.int32(rows[row, place] * inverse + half_up)
            codes[row, place] = np.uint8(min(max(code, np.int32(0)), np.int32(HIGHEST)))
        row_scale[row], row_shift[row] = scale, scale * zero


def linear(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> None:
    """``out[r] = weights · rows[r] + bias`` for the rows ``first … last − 1``, in compiled code alone.

    Args:
        rows: float32 ``[R, at least inputs]``, of which ``width`` are read.
        layer: (weights, numbers): panels in INT8 or float32, and float32: the biases of floats; of codes their scales,
            the sums of their codes times those, and the biases.
        of: int64 ``[4]``: where the weights begin, inputs and outputs (padded), and where the numbers begin.
        room: (codes uint8 ``[R, at least inputs]``, row_scale and row_shift float32 ``[R]``), written over.
        out: float32 ``[R, at least outputs]``.
    """


@overload(linear, jit_options={"cache": True, "nogil": True})  # type: ignore[untyped-decorator]
def _linear(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> Any:
    def of_codes(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> None:
        _round(rows, first, last, width, room[0], room[1], room[2])
        _multiply_codes(room[0], room[1], room[2], first, last, layer[0], layer[1], of, out)

    def of_floats(rows: Any, width: Any, first: Any, last: Any, layer: Any, of: Any, room: Any, out: Any) -> None:
        _multiply_floats(rows, first, last, layer[0], layer[1], of, out)

    return of_codes if layer[0].dtype == types.int8 else of_floats
