"""What is measured before layers move."""

import time

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from benchmarks._small_towers import small_chain  # noqa: E402
from lanner.distributed.migration import LayerClock, expected_costs  # noqa: E402

SECONDS = 0.05


class _Slow(torch.autograd.Function):
    """The identity, with a backward pass that takes a while."""

    @staticmethod
    def forward(ctx, tensor):
        return tensor.clone()

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(SECONDS)
        return gradient


class _Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, hidden):
        return hidden * _Slow.apply(self.scale)


def test_the_backward_pass_is_timed_whether_or_not_anything_below_is_trained():
    layers, clock = [_Layer(), _Layer()], LayerClock(torch.device("cpu"))
    with clock.watching(enumerate(layers)):
        for _ in range(2):
            layers[1](layers[0](torch.ones(3))).sum().backward()
    seconds = clock.take()
    assert min(seconds.values()) > 2 * SECONDS
    assert clock.take() == {}
    layers[0](torch.ones(3)).sum().backward()
    assert clock.take() == {}, "hooks are left"


def test_layers_are_expected_to_cost_what_is_trained_in_and_below_them():
    chain = small_chain("bert", layers=4)
    assert expected_costs(chain) == [1, 1, 1, 1]
    for part in (chain.embeddings, *chain.layers[:2]):
        part.requires_grad_(False)
    assert expected_costs(chain) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 1])
    adapted = expected_costs(small_chain("bert", layers=4, lora=True))
    assert adapted[0] < 0.65
    assert adapted[1:] == [1, 1, 1]
