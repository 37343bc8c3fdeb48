"""Every way of dividing training matches a single process. Small models; two or four processes."""

import time
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")
pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

from benchmarks._ranks import run_ranks  # noqa: E402
from benchmarks._small_towers import pairs, pairs_loss, small_chain  # noqa: E402
from benchmarks.parity import SHORT, adamw, measure, modes, reference  # noqa: E402
from lanner.distributed.balance import Balancer  # noqa: E402
from lanner.distributed.chain import Stage, chain_of  # noqa: E402
from lanner.distributed.compiler import check_compiler  # noqa: E402
from lanner.distributed.compressors import compressor_of  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine  # noqa: E402
from lanner.distributed.launch import check_settings  # noqa: E402
from lanner.distributed.migration import LoadBalancing, move_layers  # noqa: E402
from lanner.distributed.wire import Wire  # noqa: E402
from lanner.errors import ConfigError, DivergedError  # noqa: E402


def test_modes_of_two_ranks_give_the_losses_of_one_process():
    found = measure([mode for mode in modes() if mode.name in SHORT], ("bert",))["bert"]
    assert set(found) == set(SHORT)
    assert max(found.values()) < 1e-5, found


def test_three_kinds_of_parallelism_at_once_on_a_decoder():
    chosen = [mode for mode in modes() if mode.name in ("FSDP2×TP", "DP×TP LoRA", "TP×PP interleaved")]
    found = measure(chosen, ("llama",))["llama"]
    assert len(found) == 3
    assert max(found.values()) < 1e-5, found


def _in_five(degrees: Degrees, schedules: list[str]) -> list[float]:
    ids, mask, numbers = (one[:20] for one in pairs(0))
    engines = [Engine(small_chain("bert"), EngineConfig(degrees, name, 5), adamw) for name in schedules]
    return [engine.step(ids, mask, numbers, pairs_loss) for engine in engines]


def test_schedules_without_rounds_take_any_number_of_micro_batches():
    (whole,) = run_ranks(1, _in_five, Degrees(), ["gpipe"])
    assert run_ranks(2, _in_five, Degrees(pipeline=2), ["looped-bfs", "zbv"]) == pytest.approx([whole] * 2, abs=1e-5)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_stage_of_all_layers_is_the_model(family):
    chain = small_chain(family)
    ids, mask, _ = pairs(0)
    stage = Stage(chain, 0, len(chain.layers))
    halves = Stage(chain, 0, 2), Stage(chain, 2, 4)
    assert torch.equal(halves[1](halves[0](ids, mask), mask), stage(ids, mask))


def test_a_model_of_another_family_is_refused():
    with pytest.raises(ConfigError, match="Linear cannot be divided over devices"):
        chain_of(torch.nn.Linear(2, 2), lambda hidden, mask: hidden)


def _moved() -> dict[str, list[float]]:
    """Losses with and without moves of layers, and after them the weights' sum of a moved layer on both ranks."""
    losses: dict[str, list[float]] = {"still": [], "moved": []}
    for kind in losses:
        config = EngineConfig(Degrees(pipeline=2), micro_batches=4, compression="int8")
        engine = Engine(small_chain("bert"), config, adamw)
        for step in range(9):
            losses[kind].append(engine.step(*pairs(step), pairs_loss))
            if kind == "moved" and step in (2, 5):
                move_layers(engine, {2: (0, 1, 4), 5: (0, 3, 4)}[step])
    return losses


def test_moved_layers_leave_the_loss_unchanged_to_the_bit():
    losses = run_ranks(2, _moved)
    assert losses["moved"] == losses["still"]


def _balanced() -> dict[str, list[int]]:
    engine = Engine(small_chain("bert", layers=6), EngineConfig(Degrees(pipeline=2), micro_batches=4), adamw)
    if torch.distributed.get_rank() == 0:
        for layer in engine.chain.layers:
            layer.attention.register_forward_pre_hook(lambda *given: time.sleep(0.03))
    balancing = LoadBalancing(engine, Balancer(every=2, horizon=1000))
    for step in range(2):
        with balancing.step():
            engine.step(*pairs(step), pairs_loss)
    return {"bounds": list(engine.bounds)}


def test_a_slow_rank_gives_layers_away():
    assert run_ranks(2, _balanced)["bounds"][1] < 3


def _shared(config: EngineConfig, steps: int) -> tuple[list[float], list[int]]:
    """Losses while micro-batches are moved between replicas, the first of which is slow, and their shares at last."""
    engine = Engine(small_chain("bert"), config, adamw)
    if engine.at["replicate"] == 0:
        for layer in engine.chain.layers:
            layer.attention.register_forward_pre_hook(lambda *given: time.sleep(0.1))
    balancing, losses = LoadBalancing(engine, Balancer(every=2, horizon=1000)), []
    for step in range(2):
        with balancing.step():
            losses.append(engine.step(*pairs(step), pairs_loss))
    losses += [engine.step(*pairs(step), pairs_loss) for step in range(2, steps)]
    return losses, engine.parts


@pytest.mark.parametrize(
    ("degrees", "others"),
    [("replicate=2", {"compression": "none"}), ("replicate=2,pp=2", {"bounds": (0, 2, 4)})],
    ids=["DP", "DP×PP"],
)
def test_a_slow_replica_gives_micro_batches_away_and_losses_are_those_of_one_process(degrees, others):
    config = EngineConfig(Degrees.parse(degrees), micro_batches=4, balancing=True, **others)
    losses, parts = run_ranks(config.degrees.world, _shared, config, 6)
    assert sum(parts) == 8
    assert parts[0] < parts[1]
    assert losses == pytest.approx(reference("bert", lora=False, whole=False)[:6], abs=1e-5)


def _nothing_left() -> str:
    chain = small_chain("bert")
    with torch.no_grad():
        chain.layers[2].output.dense.weight[0, 0] = torch.nan
    engine = Engine(chain, EngineConfig(Degrees(pipeline=2), micro_batches=4), adamw)
    try:
        engine.step(*pairs(0), pairs_loss)
    except DivergedError as error:
        return str(error)
    return ""


def test_a_loss_that_is_not_finite_names_step_batch_and_layer():
    said = run_ranks(2, _nothing_left)
    assert "the loss is nan at step 0, batch of 32 texts, layer 2" in said


def _nothing_left_of_all() -> str:
    chain = small_chain("bert")
    engine = Engine(chain, EngineConfig(Degrees(replicas=2), micro_batches=2), adamw)
    before = [one.clone() for one in engine.trained().values()]
    ids, mask, _ = pairs(0)
    try:
        engine.step_whole(ids, mask, lambda vectors: (vectors * torch.nan).sum())
    except DivergedError as error:
        same = all(torch.equal(*one) for one in zip(before, engine.trained().values(), strict=True))
        return f"{error} {same}"
    return ""


def test_nor_is_one_of_all_vectors_at_once_stepped_on():
    said = run_ranks(2, _nothing_left_of_all)
    assert "the loss is nan at step 0" in said
    assert said.endswith("True")


def _compiled(compile_layers: bool) -> tuple[list[float], int]:
    """Losses of two steps, and the number of compiled frames."""
    chain = small_chain("bert", layers=1, width=16)
    engine = Engine(chain, EngineConfig(checkpointing=True, compile=compile_layers), adamw)
    losses = [engine.step(*pairs(0), pairs_loss) for _ in range(2)]
    return losses, torch._dynamo.utils.counters["frames"]["ok"]


def test_compiled_layers_give_the_same_losses():
    try:
        check_compiler(torch.device("cpu"))
    except ConfigError as error:
        pytest.skip(str(error))
    compiled, frames = run_ranks(1, _compiled, True)
    assert frames > 0
    assert compiled == pytest.approx(run_ranks(1, _compiled, False)[0], abs=1e-6)


def test_a_missing_compiler_is_named_before_anything_is_read(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and 'no-such-compiler' was not found; install it"):
        check_settings(EngineConfig(Degrees(replicas=2), compile=True))
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    with pytest.raises(ConfigError, match=r"needs Python's headers, and /nowhere/Python.h was not found"):
        check_compiler(torch.device("cpu"))


def _checkpointed(checkpointing: bool) -> tuple[list[float], int, int]:
    """Losses of three steps, and calls of hooks of the first layer and of its attention."""
    chain, outside, inside = small_chain("bert", layers=2, width=16), [], []
    engine = Engine(chain, EngineConfig(checkpointing=checkpointing), adamw)
    chain.layers[0].register_forward_hook(lambda *given: outside.append(1))
    chain.layers[0].attention.register_forward_hook(lambda *given: inside.append(1))
    losses = []
    for step in range(3):
        ids, mask, _ = pairs(step)
        losses.append(engine.step_whole(ids, mask, pairs_loss))
    return losses, len(outside), len(inside)


def test_checkpointing_is_inside_the_layer():
    plain, again = run_ranks(1, _checkpointed, False), run_ranks(1, _checkpointed, True)
    assert plain[1:] == (3, 3)
    assert again[1:] == (3, 6)
    assert again[0] == plain[0]


def _passes(parts: int) -> tuple[list[float], list[torch.Tensor], int]:
    """Losses of two steps, the gradients that they were by, and forward passes through the first layer."""
    chain, passes, gradients = small_chain("bert"), [], []
    chain.layers[0].register_forward_hook(lambda *given: passes.append(1))
    engine = Engine(chain, EngineConfig(Degrees(), micro_batches=parts), adamw)
    engine.optimizer.register_step_pre_hook(
        lambda *given: gradients.append(torch.cat([one.grad.reshape(-1) for one in engine.trained().values()]))
    )
    losses = []
    for step in range(2):
        ids, mask, _ = pairs(step)
        losses.append(engine.step_whole(ids, mask, pairs_loss))
    return losses, gradients, len(passes)


def test_a_batch_of_one_micro_batch_goes_through_the_model_once():
    once, twice = run_ranks(1, _passes, 1), run_ranks(1, _passes, 2)
    assert (once[2], twice[2]) == (2, 8)
    assert once[0] == pytest.approx(twice[0], abs=1e-6)
    for one, other in zip(once[1], twice[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_vectors_that_are_not_learned_from_keep_nothing_of_the_batch_before():
    assert run_ranks(1, _learned_after_others)


def _learned_after_others() -> bool:
    """Whether a step is the same if other vectors were to be learned from, and were not."""
    weights = []
    for disturbed in (False, True):
        engine = Engine(small_chain("bert"), EngineConfig(Degrees()), adamw)
        ids, mask, _ = pairs(0)
        if disturbed:
            engine.vectors(*pairs(1)[:2], to_learn=True)
            engine.vectors(ids, mask)
        engine.learn(ids, mask, torch.ones(len(ids), 64))
        weights.append(torch.cat([one.detach().reshape(-1) for one in engine.trained().values()]))
    return torch.equal(*weights)


def _refusals() -> list[str]:
    said = []
    for config in (
        EngineConfig(Degrees(replicas=3)),
        EngineConfig(Degrees(pipeline=2), bounds=(0, 4)),
        EngineConfig(Degrees(replicas=2), shares=(1, 1, 1)),
        EngineConfig(Degrees(pipeline=2), schedule="none"),
    ):
        try:
            Engine(small_chain("bert"), config, adamw)
        except ConfigError as error:
            said.append(str(error))
    try:
        Engine(small_chain("bert", layers=1), EngineConfig(Degrees(pipeline=2)), adamw)
    except ConfigError as error:
        said.append(str(error))
    return said


def test_what_cannot_be_divided_is_refused_in_one_line():
    said = run_ranks(2, _refusals)
    for line, words in zip(
        said,
        (
            "replicate 3",
            "do not cut 4 layers into 2 stages",
            "parallel.shares=[1, 1, 1]: give one number for each replica",
            "unknown schedule",
            "1 layers",
        ),
        strict=True,
    ):
        assert words in line
        assert "\n" not in line


def _summed(name: str) -> tuple[torch.Tensor, torch.Tensor, int]:
    """What 200 compressed sums of the same gradients add up to, what they should, and the bytes of one."""
    rank = torch.distributed.get_rank()
    draw = torch.Generator().manual_seed(rank)
    gradient = {"a.weight": torch.randn(64, 48, generator=draw), "a.bias": torch.randn(48, generator=draw)}
    wire, compressor = Wire(None), compressor_of(name)
    total, exact = torch.zeros(64 * 48 + 48), torch.zeros(64 * 48 + 48)
    for step in range(200):
        bucket = {key: one.clone() for key, one in gradient.items()}
        compressor.reduce(bucket, wire)
        total += torch.cat([one.flatten() for one in bucket.values()])
        if step == 0:
            sent = wire.sent
    flat = torch.cat([one.flatten() for one in gradient.values()])
    torch.distributed.all_reduce(flat)
    exact = flat * 200
    return total, exact, sent


@pytest.mark.parametrize(
    ("name", "bytes_of_dense", "error"),
    [("none", 1.0, 1e-5), ("fp16", 0.5, 1e-3), ("int8", 0.27, 1e-3), ("sign", 0.0423, 0.2), ("topk:0.05", 0.08, 0.2),
     ("powersgd:4", 0.17, 0.2)],
)  # fmt: skip
def test_compressed_sums_add_up_to_the_sum(name, bytes_of_dense, error):
    total, exact, sent = run_ranks(2, _summed, name)
    assert float((total - exact).norm() / exact.norm()) < error
    assert sent / (4 * (64 * 48 + 48)) == pytest.approx(bytes_of_dense, rel=0.1)


@pytest.mark.parametrize("text", ["topk:2", "topk:x", "powersgd:0", "zip", "fp16:3"])
def test_unknown_compression_is_refused(text):
    with pytest.raises(ConfigError, match="compression"):
        compressor_of(text)


def _with_compression(config: EngineConfig) -> list[float]:
    engine = Engine(small_chain("bert"), config, adamw)
    losses = [engine.step(*pairs(step % 4), pairs_loss) for step in range(24)]
    return [losses[0], sum(losses[-4:]) / 4, float(engine.sent)]


def test_compression_works_with_pipelines_tensors_shards_and_racks():
    base = EngineConfig(micro_batches=2, compression="topk:0.05", dense_steps=2)
    for degrees in (Degrees(replicas=2, pipeline=2), Degrees(replicas=2, tensor=2), Degrees(replicas=2, shards=2)):
        first, last, sent = run_ranks(4, _with_compression, replace(base, degrees=degrees))
        assert last < first
        assert sent > 0
    four = replace(base, degrees=Degrees(replicas=4), ranks_per_rack=2)
    first, last, _ = run_ranks(4, _with_compression, four)
    assert last < first
