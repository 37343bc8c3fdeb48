"""Replicas that rarely synchronise: what they send, and that they end with the same weights."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")
pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

from benchmarks._ranks import run_ranks  # noqa: E402
from benchmarks._small_towers import pairs, pairs_loss, small_chain  # noqa: E402
from benchmarks.parity import adamw  # noqa: E402
from lanner.distributed.averaging import Averaging, fragments  # noqa: E402
from lanner.distributed.balance import Balancer  # noqa: E402
from lanner.distributed.chain import Stage  # noqa: E402
from lanner.distributed.checkpoint import Checkpoints  # noqa: E402
from lanner.distributed.config import AveragingConfig, EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine, trimmed  # noqa: E402
from lanner.distributed.launch import check_settings  # noqa: E402
from lanner.distributed.migration import LoadBalancing, move_layers  # noqa: E402
from lanner.distributed.ranks import Leader  # noqa: E402
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
    for _ in range(rounds * config.local_steps):
        ((layer.weight - (1.0 + 2 * rank)).square().sum() / 2).backward()
        inner.step()
        inner.zero_grad()
        averaging.after_batch()
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


def _learned_unequally(fragments: int, batches: int) -> list[float]:
    """The mean weight after replicas, whose weights are 1 and 3, learned from 3 and 1, then from 1 and 3, and so on."""
    rank = torch.distributed.get_rank()
    layers = torch.nn.ModuleList(torch.nn.Linear(1, 1, bias=False) for _ in range(fragments))
    for one in layers.parameters():
        torch.nn.init.zeros_(one)
    config = AveragingConfig(2, 1.0, 0.0, fragments=fragments)
    averaging = Averaging(dict(layers.named_parameters()), Wire(torch.distributed.new_group()), config)
    for batch in range(batches):
        for one in layers.parameters():
            torch.nn.init.constant_(one, 1.0 + 2 * rank)
        averaging.after_batch(3 if batch % 2 == rank else 1, 4)
    return [float(one.detach()) for one in layers.parameters()]


def test_a_replica_counts_by_what_it_learned_from_since_the_last_average():
    assert run_ranks(2, _learned_unequally, 1, 2) == pytest.approx([2.0])
    assert run_ranks(2, _learned_unequally, 2, 1)[1] == pytest.approx(1.5), "of 3 and 1"
    assert run_ranks(2, _learned_unequally, 2, 3)[1] == pytest.approx(2.0), "of 4 and 4 since the first batch"


def test_fragments_hold_every_parameter_once_and_none_is_empty():
    sizes = {name: torch.empty(size) for name, size in zip("abcdefg", (1, 1, 1, 50, 1, 1, 50), strict=True)}
    for count in range(1, 8):
        parts = fragments(sizes, count)
        assert sorted(name for part in parts for name in part) == sorted(sizes)
        assert all(parts)
    with pytest.raises(ConfigError, match="only 7 parameters"):
        fragments(sizes, 8)


@pytest.mark.parametrize(
    "given",
    [
        {"local_steps": 5, "fragments": 2},
        {"local_steps": 4, "delay": 4},
        {"outer_rate": 0.0},
        {"outer_momentum": 1.0},
    ],
)
def test_rounds_that_do_not_fit_are_refused(given):
    with pytest.raises(ConfigError):
        AveragingConfig(**given)


def _flat(engine: Engine) -> torch.Tensor:
    return torch.cat([one.detach().flatten() for one in engine.trained().values()])


def _engine_alone(config: EngineConfig) -> dict[str, list[float]]:
    """After each step how far the weights are from those of the first replica; at last, after a checkpoint."""
    engine = Engine(small_chain("bert"), config, adamw)
    losses, apart = [], []
    for step in range(8):
        losses.append(engine.step(*pairs(step % 2), pairs_loss))
        apart.append(_from_first(engine))
    losses.append(engine.step(*pairs(0), pairs_loss))
    engine.state()
    apart.append(_from_first(engine))
    return {"losses": losses, "apart": apart, "sent": [float(engine.sent)]}


def _from_first(engine: Engine) -> float:
    mine = _flat(engine)
    first = mine.clone()
    torch.distributed.broadcast(first, group_src=0, group=engine.mesh["replicate"].get_group())
    far = (mine - first).abs().max()
    torch.distributed.all_reduce(far, torch.distributed.ReduceOp.MAX)
    return float(far)


def test_replicas_of_an_engine_meet_every_so_many_steps():
    found = run_ranks(2, _engine_alone, EngineConfig(Degrees(replicas=2), local_steps=4))
    assert [far == 0 for far in found["apart"]] == [False, False, False, True] * 2 + [True]
    assert found["losses"][-1] < found["losses"][0]
    dense = run_ranks(2, _engine_alone, EngineConfig(Degrees(replicas=2)))
    assert dense["apart"] == [0] * 9
    assert found["sent"][0] < 0.4 * dense["sent"][0]


def test_replicas_of_a_pipeline_learn_alone():
    config = EngineConfig(Degrees.parse("replicate=2,pp=2"), micro_batches=2, local_steps=4, compression="int8")
    found = run_ranks(4, _engine_alone, config)
    assert [far == 0 for far in found["apart"]] == [False, False, False, True] * 2 + [True]
    assert found["losses"][-1] < found["losses"][0]


def _unequal_steps() -> dict[str, float]:
    """How far an engine's weights are from those of replicas that take three steps and one by hand."""
    rank = torch.distributed.get_rank()
    config = EngineConfig(Degrees(replicas=2), shares=(3, 1), local_steps=2, outer_rate=1.0, outer_momentum=0.0)
    engine = Engine(small_chain("bert"), config, adamw)
    chain = small_chain("bert")
    stage = Stage(chain, 0, len(chain.layers))
    optimizer = adamw(list(stage.parameters()))
    for batch in range(2):
        ids, mask, rows = pairs(batch)
        engine.step(ids, mask, rows, pairs_loss)
        for at in (0, 1, 2) if rank == 0 else (3,):
            part = slice(8 * at, 8 * at + 8)
            pairs_loss(stage(*trimmed(ids[part], mask[part]))).backward()
            optimizer.step()
            optimizer.zero_grad()
    mean = torch.cat([one.detach().flatten() for one in stage.parameters()]) * (0.75, 0.25)[rank]
    torch.distributed.all_reduce(mean)
    steps = [int(one["step"]) for one in engine.optimizer.state.values()]
    return {"far": float((_flat(engine) - mean).abs().max()), "fewest": min(steps), "most": max(steps)}


def test_a_replica_with_more_micro_batches_takes_more_steps_and_counts_more():
    found = run_ranks(2, _unequal_steps)
    assert found["far"] < 1e-6
    assert (found["fewest"], found["most"]) == (6, 6), "three in each of two batches"


def _balanced_alone(degrees: str) -> dict[str, list[float]]:
    """Shares after two batches of replicas, the first of which is slow, and how far apart weights are after four."""
    config = EngineConfig(Degrees.parse(degrees), micro_batches=4, local_steps=4, balancing=True)
    engine = Engine(small_chain("bert"), config, adamw)
    if engine.at["replicate"] == 0:
        for layer in engine.chain.layers:
            layer.attention.register_forward_pre_hook(lambda *given: time.sleep(0.1))
    balancing, losses = LoadBalancing(engine, Balancer(every=2, horizon=1000)), []
    for batch in range(4):
        with balancing.step() if batch < 2 else nullcontext():
            losses.append(engine.step(*pairs(0), pairs_loss))
    return {"parts": engine.parts, "apart": [_from_first(engine)], "losses": losses}


@pytest.mark.parametrize("degrees", ["replicate=2", "replicate=2,pp=2"])
def test_a_slow_replica_that_learns_alone_gives_micro_batches_away(degrees):
    found = run_ranks(Degrees.parse(degrees).world, _balanced_alone, degrees)
    assert found["parts"][0] < found["parts"][1]
    assert found["apart"] == [0]
    assert found["losses"][-1] < found["losses"][0]


def _settings_in_use() -> dict[str, float]:
    config = EngineConfig(
        Degrees(replicas=2),
        local_steps=4,
        outer_rate=0.9,
        outer_momentum=0.3,
        fragments=2,
        delay=1,
        compression="int8",
    )
    engine = Engine(small_chain("bert"), config, adamw)
    used = engine._averaging.config
    for step in range(4):
        engine.step(*pairs(step), pairs_loss)
    engine.state()
    return {
        "rate": used.outer_rate,
        "momentum": used.outer_momentum,
        "delay": used.delay,
        "is_int8": used.compression == "int8",
        "fragments": len(engine._averaging._fragments),
        "apart": _from_first(engine),
    }


def test_settings_of_averages_reach_the_engine():
    found = run_ranks(2, _settings_in_use)
    assert found == {"rate": 0.9, "momentum": 0.3, "delay": 1, "is_int8": True, "fragments": 2, "apart": 0}


def _gone_on() -> list[float]:
    """How far weights are from those of a fresh engine with the same state, after a round of each."""
    config = EngineConfig(Degrees(replicas=2), local_steps=4, compression="int8")
    used, fresh = (Engine(small_chain("bert"), config, adamw) for _ in range(2))
    for step in range(6):
        used.step(*pairs(step), pairs_loss)
    state = used.state()
    size = sum(shape.numel() for shape in used.whole_shapes.values())
    flat = [torch.zeros(size) for _ in range(3)] if state is None else state
    for one in flat:
        torch.distributed.broadcast(one, 0)
    before = _flat(used)
    for engine in (used, fresh):
        engine.set_state(6, flat)
        for step in range(4):
            engine.step(*pairs(step), pairs_loss)
    return [float((_flat(used) - _flat(fresh)).abs().max()), float((_flat(used) - before).abs().max())]


def test_an_engine_that_takes_over_a_state_begins_a_round():
    apart, moved = run_ranks(2, _gone_on)
    assert apart == 0
    assert moved > 0


def _longest_first(steps: int, local_steps: int) -> list[int]:
    leader = object.__new__(Leader)
    engine = SimpleNamespace(parts=[1, 1], steps=steps, config=EngineConfig(local_steps=local_steps))
    leader._member = SimpleNamespace(engine=engine)
    lengths = torch.tensor([1, 4, 2, 3])
    return leader._row_order((torch.arange(4) < lengths[:, None]).long()).tolist()


def test_replicas_that_learn_alone_take_turns_with_the_longest_texts():
    assert _longest_first(0, 5) == _longest_first(0, 0) == _longest_first(1, 0) == [1, 3, 2, 0]
    assert _longest_first(1, 5) == [2, 0, 1, 3]


def test_what_does_not_know_local_steps_refuses_them(tmp_path):
    engine = SimpleNamespace(config=EngineConfig(local_steps=4))
    with pytest.raises(ConfigError, match="checkpoints of replicas that train independently"):
        Checkpoints(tmp_path, engine, "")
    with pytest.raises(ConfigError, match="cannot be moved"):
        move_layers(engine, (0, 1, 4))


def _descent(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.5)


def _one_step(config: EngineConfig, rows: int, whole: bool) -> torch.Tensor:
    """The weights of the first rank after a step on some rows, by a mean over them."""
    engine = Engine(small_chain("bert"), config, _descent)
    ids, mask, numbers = (one[:rows] for one in pairs(0))
    if whole:
        engine.step_whole(ids, mask, _mean)
    else:
        engine.step(ids, mask, numbers, _mean)
    return _flat(engine)


def _mean(vectors_BD: torch.Tensor, target: object = None) -> torch.Tensor:
    return vectors_BD[:, 0].mean()


@pytest.mark.parametrize("whole", [False, True])
def test_a_step_alone_is_that_of_one_process_on_the_same_rows(whole):
    alone = run_ranks(2, _one_step, EngineConfig(Degrees(replicas=2), local_steps=5), 32, whole)
    single = run_ranks(1, _one_step, EngineConfig(), 16, whole)
    torch.testing.assert_close(alone, single, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"degrees": Degrees(tensor=2)}, "needs replicas, each with whole layers, received: .*tp 2"),
        ({"degrees": Degrees(replicas=2, shards=2)}, "needs replicas"),
        ({"degrees": Degrees(replicas=2), "dense_steps": 3}, "parallel.dense_steps and parallel.local_steps exclude"),
        ({"degrees": Degrees(replicas=2), "fragments": 3}, "parallel.local_steps=4 must be a positive multiple of"),
        ({"degrees": Degrees(replicas=2), "delay": 4}, "parallel.delay=4 must be below local_steps / fragments = 4"),
        ({"degrees": Degrees(replicas=2), "outer_rate": -1.0}, "parallel.outer_rate=-1 must be above 0"),
    ],
)
def test_local_steps_that_go_with_something_else_are_refused(given, words):
    config = EngineConfig(local_steps=4, **given)
    with pytest.raises(ConfigError, match=words):
        config.check()


def test_deepspeed_refuses_local_steps():
    config = EngineConfig(Degrees(replicas=2), local_steps=4, engine="deepspeed")
    with pytest.raises(ConfigError, match=r"parallel\.local_steps needs parallel\.engine=torch"):
        check_settings(config)


@pytest.mark.parametrize("schedule", ["1f1b", "dualpipev"])
def test_schedules_with_too_few_micro_batches_are_refused_before_anything_is_read(schedule):
    few, enough = (EngineConfig(Degrees(pipeline=2), schedule, count) for count in (1, 4))
    with pytest.raises(ConfigError, match=f"schedule {schedule} needs at least as many micro-batches as stages"):
        check_settings(few)
    check_settings(enough)
    check_settings(EngineConfig(Degrees(pipeline=2), "gpipe", 1))
    with pytest.raises(ConfigError, match="schedule interleaved over pp 2 cannot run 5 micro-batches"):
        check_settings(EngineConfig(Degrees(pipeline=2), "interleaved", 5))
