"""Replicas that meet seldom: what they send, and that they end with the same weights."""

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from benchmarks._ranks import run_ranks  # noqa: E402
from lanner.distributed.averaging import Averaging, AveragingConfig, fragments  # noqa: E402
from lanner.distributed.wire import Wire  # noqa: E402
from lanner.errors import ConfigError  # noqa: E402


def _trained(config: AveragingConfig, rounds: int = 12) -> list[float]:
    """Each replica pulls towards its own target; the distance to their mean at the end, and the bytes sent."""
    rank = torch.distributed.get_rank()
    layer = torch.nn.Linear(8, 8)
    torch.manual_seed(0)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    averaging = Averaging(dict(layer.named_parameters()), Wire(torch.distributed.new_group()), config)
    inner = torch.optim.SGD(layer.parameters(), 0.2)
    for _ in range(rounds * averaging.round):
        ((layer.weight - (1.0 + 2 * rank)).square().sum() / 2).backward()
        inner.step()
        inner.zero_grad()
        averaging.after_step()
    averaging.finish()
    mine = layer.weight.detach().clone()
    other = mine.clone()
    torch.distributed.broadcast(other, 0)
    return [float(mine.mean()), float((mine - other).abs().max()), float(averaging.wire.sent)]


@pytest.mark.parametrize(
    "config",
    [
        AveragingConfig(4, 1.0, 0.0),
        AveragingConfig(4),
        AveragingConfig(4, compression="int8"),
        AveragingConfig(4, fragments=2, delay=1),
    ],
    ids=["local SGD", "DiLoCo", "int8", "streaming"],
)
def test_replicas_end_between_their_targets(config):
    mean, apart, sent = run_ranks(2, _trained, config)
    assert mean == pytest.approx(2.0, abs=0.1)
    assert apart == 0
    assert sent < 14 * 4 * (64 + 8)


def test_a_replica_counts_by_its_steps():
    mean, _, _ = run_ranks(2, _trained, AveragingConfig(4, 1.0, 0.0, steps=(6, 2)))
    assert mean < 1.8


def test_fragments_hold_every_parameter_once_and_none_is_empty():
    sizes = {name: torch.empty(size) for name, size in zip("abcdefg", (1, 1, 1, 50, 1, 1, 50), strict=True)}
    for count in range(1, 8):
        parts = fragments(sizes, count)
        assert sorted(name for part in parts for name in part) == sorted(sizes)
        assert all(parts)
    with pytest.raises(ConfigError, match="only 7 parameters"):
        fragments(sizes, 8)


@pytest.mark.parametrize("given", [{"every": 5, "fragments": 2}, {"every": 4, "delay": 4}, {"steps": (0, 1)}])
def test_rounds_that_do_not_fit_are_refused(given):
    with pytest.raises(ConfigError):
        AveragingConfig(**given)
