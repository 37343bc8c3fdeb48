"""An encoder in whole numbers: what a bundle holds of it, and what every reader of it must compute.

Weights of a linear layer are codes −63 … 63 times a scale for each output, and so are tokens' embeddings, −127 … 127
times a scale for each token. What comes in is rounded row by row when it comes: x ≈ (c − z) · s with a code c of
0 … 127, its zero z and its scale s, so that a product of codes is exact in whole numbers::

    y = (Σ c w − z Σ w) · s · s_w + b

Seven bits on both sides, for processors without INT8 products of their own add in 16 bits. Of ``BLOCK`` inputs, in four
fours, they add the first two products of all fours in one number and the last two in another; an output's scale is such
that no such sum can exceed 16 bits, whatever comes in.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lanner.models.request_form import Int8Rows

if TYPE_CHECKING:
    from lanner.models.compact_encoder import CompactEncoder  # who reads codes needs no torch

HIGHEST = 127
"""Code of the largest number of a row that comes in."""
LARGEST_WEIGHT = 63
BLOCK = 16
LARGEST_SUM = 32767 // HIGHEST
"""Of the positive codes, and of the negative ones, of those inputs of a block that are added in 16 bits."""
LINEAR = ("attend", "join", "widen", "narrow")
"""The linear maps of a layer, in the order of its arithmetic."""
NORMS = ("attention_norm", "norm")


def encoder_codes(encoder: "CompactEncoder") -> dict[str, NDArray[Any]]:
    """The arrays of ``encoder.state_dict()``, with ``*.codes`` and ``*.scale`` in place of embeddings and weights."""
    arrays = {name: value.detach().float().numpy() for name, value in encoder.state_dict().items()}
    rounded: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        parts = name.split(".")
        if name == "words.weight":
            rows = Int8Rows.of(array)
        elif parts[-1] == "weight" and parts[-2] in LINEAR:
            rows = _weights(array)
        else:
            rounded[name] = array
            continue
        stem = name.removesuffix("weight")
        rounded |= {f"{stem}codes": rows.codes, f"{stem}scale": rows.scale}
    return rounded


def _weights(weights_OI: NDArray[Any]) -> Int8Rows:
    """The nearest codes that keep every sum within 16 bits; few outputs need a larger scale for it than for a code."""
    rows = Int8Rows.of(weights_OI, LARGEST_WEIGHT)
    while (sums := largest_sums(rows.codes)).max() > LARGEST_SUM:
        scale = (rows.scale * np.maximum(sums / LARGEST_SUM, 1)).astype(np.float32)
        rows = Int8Rows(np.rint(weights_OI / scale[:, None]).astype(np.int8), scale)
    return rows


def largest_sums(codes_OI: NDArray[np.int8]) -> NDArray[np.int64]:
    """Of each output: the largest sum, in size, of codes of one sign that are added in 16 bits, int64 ``[O]``."""
    outputs, inputs = codes_OI.shape
    padded = np.pad(codes_OI.astype(np.int64), ((0, 0), (0, -inputs % BLOCK)))
    halves = padded.reshape(outputs, -1, BLOCK // 4, 2, 2)
    positive, negative = (np.maximum(side, 0).sum(axis=(2, 4)) for side in (halves, -halves))
    return np.asarray(np.maximum(positive, negative).max(axis=(1, 2)))
