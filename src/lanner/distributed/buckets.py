"""Sizes of gradient buckets: shared by the synchroniser, which fills them, and predictions of its time."""

_LARGEST_BYTES, _MIN_DENSE = 4 << 20, 8


def bucket_bytes(total: int, share: float) -> int:
    """Maximum bytes of a bucket.

    Without compression there are at least eight, so that most overlap with the backward pass; compression uses fewer,
    since a bucket would cost more than its early start gains.

    Args:
        total: bytes of all gradients.
        share: bytes sent per byte of gradients.
    """
    return min(_LARGEST_BYTES, max(1, total // max(1, round(_MIN_DENSE * share))))
