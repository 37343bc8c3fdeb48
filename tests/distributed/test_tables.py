"""Sharded tables learn the same as an unsharded one."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.tensor import Replicate  # noqa: E402
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module  # noqa: E402

from benchmarks._ranks import run_ranks  # noqa: E402
from lanner.distributed.tables import RowShardedEmbedding  # noqa: E402
from tests.page_reader import Reader, blocks_of  # noqa: E402

ROWS, WIDTH, STEPS, BATCH = 11, 6, 6, 8


PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"


def _values(begin: int, end: int) -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))[begin:end]


def _table(kind: str, sparse: bool) -> nn.Module:
    if kind == "rows":
        return RowShardedEmbedding(ROWS, _values, init_device_mesh("cpu", (dist.get_world_size(),)), sparse=sparse)
    table = nn.Embedding.from_pretrained(_values(0, ROWS).clone(), freeze=False, sparse=sparse)
    if kind == "columns":
        style = ColwiseParallel(output_layouts=Replicate())
        parallelize_module(table, init_device_mesh("cpu", (dist.get_world_size(),)), style)
    return table


def _learn(kind: str, sparse: bool) -> tuple[list[float], torch.Tensor, list[int]]:
    """Losses, the table, and the elements of gradient and moment of this rank. By rows, each rank has its own texts."""
    torch.manual_seed(1)
    table, answer = _table(kind, sparse), torch.randn(WIDTH)
    kinds = torch.optim.SparseAdam if sparse else torch.optim.AdamW
    optimizer = kinds(list(table.parameters()), 0.1)
    mine = slice(None)
    if kind == "rows":
        share = BATCH // dist.get_world_size()
        mine = slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)
    losses, seen = [], 0
    for step in range(STEPS):
        ids = torch.randint(ROWS, (BATCH, 3), generator=torch.Generator().manual_seed(step))
        loss = (table(ids[mine]).sum(1) @ answer).sub(1).square().sum() / BATCH
        optimizer.zero_grad()
        loss.backward()
        (weight,) = table.parameters()
        seen = (weight.grad._values() if sparse else getattr(weight.grad, "_local_tensor", weight.grad)).numel()
        optimizer.step()
        total = loss.detach().clone()
        if kind == "rows":
            dist.all_reduce(total)
        losses.append(float(total))
    (weight,) = table.parameters()
    moment = optimizer.state[weight]["exp_avg"]
    sizes = [seen, getattr(moment, "_local_tensor", moment).numel()]
    whole = table.whole() if kind == "rows" else weight
    return losses, (whole.full_tensor() if hasattr(whole, "full_tensor") else whole).detach(), sizes


@pytest.mark.parametrize(("kind", "sparse", "ranks"), [("rows", False, 2), ("rows", True, 2), ("rows", False, 4),
                                                       ("columns", False, 2)])  # fmt: skip
def test_a_divided_table_learns_as_a_whole_one(kind, sparse, ranks):
    losses, whole, _ = run_ranks(1, _learn, "whole", sparse)
    divided_losses, divided, sizes = run_ranks(ranks, _learn, kind, sparse)
    assert divided_losses == pytest.approx(losses, abs=1e-6)
    assert torch.allclose(divided, whole, atol=1e-6)
    owned = -(-ROWS // ranks) * WIDTH if kind == "rows" else ROWS * WIDTH // ranks
    assert sizes[1] == owned
    assert sizes[0] <= owned, "gradients stay with the owner"


def test_the_example_of_the_documentation_runs(tmp_path):
    blocks = blocks_of(PAGE)
    first = next(number for number, (_, title, _) in enumerate(blocks) if title == "item_table.py")
    reader = Reader(tmp_path)
    try:
        for block in blocks[first : first + 3]:
            reader.follow(*block)
        assert reader.said
    finally:
        reader.leave()
