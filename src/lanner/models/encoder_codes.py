"""An encoder in whole numbers: what a bundle holds of it, and what every reader of it must compute.

Weights of a linear layer are codes −63 … 63 times a scale for each output, and so are tokens' embeddings, −127 … 127
times a scale for each token. What comes in is rounded row by row when it comes: x ≈ (c − z) · s with a code c of
0 … 127, its zero z and its scale s, so that a product of codes is exact in whole numbers::

    y = (Σ c w − z Σ w) · s · s_w + b

Seven bits on both sides: four products then fit 16 bits, which processors without INT8 products of their own add in.
"""

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from lanner.models.request_form import Int8Rows

if TYPE_CHECKING:
    from lanner.models.compact_encoder import CompactEncoder  # who reads codes needs no torch

HIGHEST = 127
"""Code of the largest number of a row that comes in."""
LARGEST_WEIGHT = 63
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
            rows = Int8Rows.of(array, LARGEST_WEIGHT)
        else:
            rounded[name] = array
            continue
        stem = name.removesuffix("weight")
        rounded |= {f"{stem}codes": rows.codes, f"{stem}scale": rows.scale}
    return rounded
