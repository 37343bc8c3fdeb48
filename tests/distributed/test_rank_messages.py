"""Messages between the ranks of a group."""

import warnings

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from benchmarks._ranks import run_ranks  # noqa: E402
from lanner.distributed.wire import Wire, told_by_all  # noqa: E402


def _gathered() -> tuple[list[list[float]], list[str]]:
    rank = torch.distributed.get_rank()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        numbers = Wire(None).gather(torch.arange(2.0) + 10 * rank)
        texts = told_by_all(f"I am {rank}", torch.device("cpu"))
    return numbers.tolist(), texts


def test_every_rank_hears_all_and_nothing_deprecated_is_called():
    assert run_ranks(2, _gathered) == ([[0.0, 1.0], [10.0, 11.0]], ["I am 0", "I am 1"])
