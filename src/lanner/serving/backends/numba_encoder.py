"""The layers of a ``CompactEncoder`` over the tokens of some texts, compiled by Numba; several threads share one call.

Tokens of all texts lie one after the other, without padding. Each thread carries its own run of tokens through every
layer; only attention reads what others computed, so that threads meet once a layer.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from lanner.serving.backends.numba_products import PANEL, address, bounds, linear, panel_of_floats
from lanner.serving.backends.numba_threads import clock, meet, run_of

HEADS, FEED_FORWARD, FIRST_LINEAR, OF_LINEAR, FIRST_NORM = 0, 1, 2, 4, 18
"""Columns of a plan: heads, inner width, four numbers for each of four linear maps (``numba_products.linear``), and
where the weights of either norm begin, the biases behind them."""
PLAN_WIDTH = 20
_INT, _FLOAT = ir.IntType(32), ir.FloatType()


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(typing_context: Any, exponent: Any) -> Any:
    """float32 2 ** exponent of an int32 within −126 … 127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.shl(builder.add(arguments[0], ir.Constant(_INT, 127)), ir.Constant(_INT, 23))
        return builder.bitcast(bits, _FLOAT)

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _floor(typing_context: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_FLOAT, [_FLOAT]), "llvm.floor.f32")
        return builder.call(function, arguments)

    return types.float32(types.float32), generate


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _exponential(number: Any) -> Any:
    """e ** number for number ≤ 0, off by at most 2e-7 of it; below −87, as at −87."""
    scaled = max(number, np.float32(-87.0)) * np.float32(1.4426950408889634)
    whole = _floor(scaled + np.float32(0.5))
    rest = (scaled - whole) * np.float32(0.6931471805599453)
    # The first terms of Taylor's series: the rest lies within ± 0.35.
    total = np.float32(1 / 5040)
    total = total * rest + np.float32(1 / 720)
    total = total * rest + np.float32(1 / 120)
    total = total * rest + np.float32(1 / 24)
    total = total * rest + np.float32(1 / 6)
    total = total * rest + np.float32(1 / 2)
    total = total * rest + np.float32(1)
    total = total * rest + np.float32(1)
    return total * _power_of_two(np.int32(whole))


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy", inline="always")  # type: ignore[untyped-decorator]
def _normal_share(number: Any) -> Any:
    """Share of a standard normal distribution below ``number``, off by at most 5e-7: (1 + erf(x / √2)) / 2.

    The error function as a rational function of x within ± 4, with the coefficients that Eigen uses.
    """
    x = min(max(number * np.float32(0.7071067811865476), np.float32(-4)), np.float32(4))
    square = x * x
    above = np.float32(-2.72614225801306e-10)
    above = above * square + np.float32(2.77068142495902e-08)
    above = above * square + np.float32(-2.10102402082508e-06)
    above = above * square + np.float32(-5.69250639462346e-05)
    above = above * square + np.float32(-7.34990630326855e-04)
    above = above * square + np.float32(-2.95459980854025e-03)
    above = above * square + np.float32(-1.60960333262415e-02)
    below = np.float32(-1.45660718464996e-05)
    below = below * square + np.float32(-2.13374055278905e-04)
    below = below * square + np.float32(-1.68282697438203e-03)
    below = below * square + np.float32(-7.37332916720468e-03)
    below = below * square + np.float32(-1.42647390514189e-02)
    return np.float32(0.5) + np.float32(0.5) * x * above / below


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _normalise(row: Any, added: Any, width: Any, numbers: Any, at: Any, epsilon: Any) -> None:
    """Add ``added`` to a row, and give it mean 0 and variance 1, then the norm's own weights and biases."""
    total = np.float32(0)
    for place in range(width):
        row[place] += added[place]
        total += row[place]
    mean, squares = total / np.float32(width), np.float32(0)
    for place in range(width):
        row[place] -= mean
        squares += row[place] * row[place]
    inverse = np.float32(1) / np.sqrt(squares / np.float32(width) + epsilon)
    weights, biases = numbers[at : at + width], numbers[at + width : at + 2 * width]
    for place in range(width):
        row[place] = row[place] * inverse * weights[place] + biases[place]


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _gelu(row: Any, width: Any) -> None:
    for place in range(width):
        row[place] *= _normal_share(row[place])


def _embed(row: Any, words: Any, token: Any) -> None:
    """Write a token's embedding into a row; compiled code alone."""


@overload(_embed, jit_options={"cache": True, "nogil": True, "fastmath": True})  # type: ignore[untyped-decorator]
def _embed_as_kept(row: Any, words: Any, token: Any) -> Any:
    def from_codes(row: Any, words: Any, token: Any) -> None:
        codes, scale = words[0][token], words[1][token]
        for place in range(len(codes)):
            row[place] = np.float32(codes[place]) * scale

    def from_floats(row: Any, words: Any, token: Any) -> None:
        floats = words[0][token]
        for place in range(len(floats)):
            row[place] = floats[place]

    return from_codes if words[0].dtype == types.int8 else from_floats


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _to_shares(scores: Any, rows: Any, length: Any) -> None:
    """The softmax of the first ``length`` scores of each row, in their place."""
    for row in range(rows):
        _, highest = bounds(address(scores, row), length)
        total = np.float32(0)
        for place in range(length):
            scores[row, place] = _exponential(scores[row, place] - highest)
            total += scores[row, place]
        inverse = np.float32(1) / total
        for place in range(length):
            scores[row, place] *= inverse


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _keep_keys(starts: Any, first: Any, last: Any, projected: Any, width: Any, keys: Any) -> None:
    """Put the keys of the tokens ``first … last − 1`` into panels of 16 tokens; every text begins a new one."""
    panel = 0
    for text in range(len(starts) - 1):
        start, end = starts[text], starts[text + 1]
        for row in range(max(first, start), min(last, end)):
            own, lane = keys[panel + (row - start) // PANEL], (row - start) % PANEL
            for number in range(width):
                own[number, lane] = projected[row, width + number]
        panel += (end - start + PANEL - 1) // PANEL


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _attend(
    starts: Any,
    first: Any,
    last: Any,
    projected: Any,
    keys: Any,
    heads: Any,
    head_size: Any,
    scores: Any,
    mixed: Any,
) -> None:
    """What the tokens ``first … last − 1`` gather, each from those of its text; scores: rows to work in."""
    panel = 0
    for text in range(len(starts) - 1):
        start, end = starts[text], starts[text + 1]
        for row in range(max(first, start), min(last, end), len(scores)):
            rows = min(len(scores), min(last, end) - row)
            for head in range(heads):
                at = 4 * head * head_size
                _score(address(projected, row) + at, projected, keys, panel, head, head_size, rows, end - start, scores)
                _to_shares(scores, rows, end - start)
                values = address(projected, start) + 8 * heads * head_size + at
                _gather(values, projected, head_size, rows, end - start, scores, address(mixed, row) + at, mixed)
        panel += (end - start + PANEL - 1) // PANEL


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _score(
    queries: Any,
    projected: Any,
    keys: Any,
    panel: Any,
    head: Any,
    head_size: Any,
    rows: Any,
    length: Any,
    scores: Any,
) -> None:
    """The products of some rows' queries with the keys of their text, whose first panel is ``panel``."""
    stride, out, out_stride = projected.strides[0], address(scores, 0), scores.strides[0]
    for place in range(0, length, PANEL):
        near = address(keys, panel + place // PANEL) + 4 * PANEL * head * head_size
        panel_of_floats(rows, queries, stride, near, 4 * PANEL, head_size, 0, out + 4 * place, out_stride)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _gather(
    values: Any, projected: Any, head_size: Any, rows: Any, length: Any, shares: Any, out: Any, mixed: Any
) -> None:
    """The values of a text's tokens, by the shares that some rows have in each."""
    left, left_stride, stride = address(shares, 0), shares.strides[0], projected.strides[0]
    for place in range(0, 4 * head_size, 4 * PANEL):
        panel_of_floats(rows, left, left_stride, values + place, stride, length, 0, out + place, mixed.strides[0])


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _known(tokens: Any, starts: Any, vocabulary: Any, positions: Any) -> bool:
    """Whether every token has an embedding and every text has its positions: what follows looks them up unchecked."""
    for text in range(len(starts) - 1):
        if starts[text + 1] - starts[text] > positions:
            return False
    return bool(tokens.min() >= 0 and tokens.max() < vocabulary)


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def read_texts(
    part: Any,
    parts: Any,
    progress: Any,
    begun: Any,
    tokens: Any,
    starts: Any,
    encoder: Any,
    room: Any,
    vectors: Any,
) -> bool:
    """Carry the ``part``-th of ``parts`` runs of tokens through all layers; part 0 writes ``vectors`` ``[T, D]``.

    Args:
        progress: as ``meet`` has it. begun: how far all are; each adds the number of layers and 1.
        tokens: int64 ``[R]``, text after text. starts: int64 ``[T + 1]``, where each text begins.
        encoder: (words, positions, layer, plan, first_norm, head_size, epsilon): words (codes, scale) or (floats,
            nothing), positions float32 ``[P, D]``, layer as ``linear`` has it, plan int64 ``[layers, PLAN_WIDTH]``,
            first_norm where the weights of the embeddings' norm begin.
        room: (hidden, projected, keys, mixed, wide, narrow, scores, rounded): float32, written over; projected and keys
            twice, scores for each thread.

    Returns:
        Whether the encoder knows all tokens and has as many positions as a text has; if not, nothing was read.
    """
    words, positions, layer, plan, first_norm, head_size, epsilon = encoder
    hidden, projected, keys, mixed, wide, narrow, scores, rounded = room
    if not _known(tokens, starts, len(words[0]), len(positions)):
        return False
    numbers, width, since = layer[1], positions.shape[1], clock()
    first, last = run_of(progress[1], part, parts, begun, len(tokens))
    for text in range(len(starts) - 1):
        for row in range(max(first, starts[text]), min(last, starts[text + 1])):
            _embed(hidden[row], words, tokens[row])
            _normalise(hidden[row], positions[row - starts[text]], width, numbers, first_norm, epsilon)
    for number in range(len(plan)):
        # What other threads read lies twice, for by the next layer they may not yet be done with this one's.
        of, own, own_keys = plan[number], projected[number % 2], keys[number % 2]
        heads, inner = of[HEADS], of[FEED_FORWARD]
        met, meeting = heads * head_size, begun + number + 1
        linear(hidden, width, first, last, layer, of[FIRST_LINEAR:], rounded, own)
        _keep_keys(starts, first, last, own, met, own_keys)
        meet(progress, part, parts, meeting, last - first, since)
        first, last = run_of(progress[1], part, parts, meeting, len(tokens))
        since = clock()
        _attend(starts, first, last, own, own_keys, heads, head_size, scores[part], mixed)
        linear(mixed, met, first, last, layer, of[FIRST_LINEAR + OF_LINEAR :], rounded, narrow)
        for row in range(first, last):
            _normalise(hidden[row], narrow[row], width, numbers, of[FIRST_NORM], epsilon)
        linear(hidden, width, first, last, layer, of[FIRST_LINEAR + 2 * OF_LINEAR :], rounded, wide)
        for row in range(first, last):
            _gelu(wide[row], inner)
        linear(wide, inner, first, last, layer, of[FIRST_LINEAR + 3 * OF_LINEAR :], rounded, narrow)
        for row in range(first, last):
            _normalise(hidden[row], narrow[row], width, numbers, of[FIRST_NORM + 1], epsilon)
    meet(progress, part, parts, begun + len(plan) + 1, last - first, since)
    if part == 0:
        for text in range(len(starts) - 1):
            _pool(hidden, starts[text], starts[text + 1], vectors[text])
    return True


@njit(cache=True, nogil=True, fastmath=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _pool(hidden: Any, first: Any, last: Any, vector: Any) -> None:
    """The sum of a text's rows, of length 1; zeros where it has none."""
    vector[:] = np.float32(0)
    for row in range(first, last):
        for place in range(len(vector)):
            vector[place] += hidden[row, place]
    squares = np.float32(0)
    for place in range(len(vector)):
        squares += vector[place] * vector[place]
    length = max(np.sqrt(squares), np.float32(1e-12))
    for place in range(len(vector)):
        vector[place] /= length
