"""The bytes counted by the code match those counted by the kernel."""

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from benchmarks._racks import NetworkRacks, bytes_sent, can_be_built  # noqa: E402
from benchmarks._ranks import run_ranks  # noqa: E402
from lanner.distributed.cluster import Cluster, Device, Link  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.planner import plan_of  # noqa: E402
from lanner.distributed.prediction import CostTable, predict  # noqa: E402
from lanner.distributed.wire import Wire  # noqa: E402


def _counted(kind: str) -> list[float]:
    """Bytes that all ranks sent, by the code and by the kernel."""
    wire, tensor = Wire(None), torch.ones(1 << 18)
    torch.distributed.barrier()
    before = bytes_sent()
    getattr(wire, kind)(tensor)
    torch.distributed.barrier()
    total = torch.tensor([wire.sent, bytes_sent() - before], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return total.tolist()


@pytest.mark.skipif(not can_be_built(), reason="network namespaces need root and the commands ip and tc")
@pytest.mark.parametrize("ranks", [2, 4])
def test_counted_bytes_are_those_of_the_kernel(ranks):
    with NetworkRacks(ranks, ranks, 1000, 1000):
        for kind in ("sum", "gather", "sum_at_first", "from_first"):
            counted, sent = run_ranks(ranks, _counted, kind, in_racks=True)
            # Headers and acknowledgements come on top.
            assert counted <= sent < 1.08 * counted, (kind, counted, sent)


LAYERS, WIDTH, ROWS, TOKENS = 4, 128, 32, 64


def _one_step(degrees: Degrees) -> float:
    """Bytes that all ranks sent in a step, by the kernel."""
    from benchmarks._small_towers import pairs, pairs_loss, small_chain
    from benchmarks.parity import adamw
    from lanner.distributed.engine import Engine

    chain = small_chain("bert", layers=LAYERS, width=WIDTH)
    engine = Engine(chain, EngineConfig(degrees, micro_batches=2), adamw)
    before = 0.0
    for step in range(2):  # the first one also makes connections
        torch.distributed.barrier()
        before = bytes_sent()
        engine.step(*pairs(step, ROWS, TOKENS), pairs_loss)
    torch.distributed.barrier()
    total = torch.tensor([bytes_sent() - before], dtype=torch.float64)
    torch.distributed.all_reduce(total)
    return float(total)


@pytest.mark.skipif(not can_be_built(), reason="network namespaces need root and the commands ip and tc")
@pytest.mark.parametrize("division", ["tp=2", "pp=2"])
def test_predicted_traffic_is_that_of_the_kernel(division):
    pytest.importorskip("transformers", reason="the extra 'language' is not installed")
    degrees, each = Degrees.parse(division), (1.0,) * LAYERS
    table = CostTable(each, each, each, each, hop=TOKENS * WIDTH * 4.0, kept=each, heads=4)
    where = Cluster((Device("a", 1.0, 2.0**34),) * 2, {"a": Link(1e8, 1e-4)}, {})
    plan = plan_of(table, where, degrees, "gpipe", 2)
    assert plan is not None
    with NetworkRacks(2, 2, 1000, 1000):
        sent = run_ranks(2, _one_step, degrees, in_racks=True)
    assert predict(table, where, plan, ROWS).traffic == pytest.approx(sent, rel=0.15)
