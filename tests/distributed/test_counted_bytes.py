"""The bytes counted by the code match those counted by the kernel."""

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from benchmarks._racks import NetworkRacks, bytes_sent, can_be_built  # noqa: E402
from benchmarks._ranks import run_ranks  # noqa: E402
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
