"""DeepSpeed steps give the losses of a single process; its state converts to other engines and back."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")
pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

from benchmarks._ranks import run_ranks  # noqa: E402
from benchmarks._small_towers import pairs, pairs_loss, small_chain  # noqa: E402
from benchmarks.parity import adamw, reference  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine  # noqa: E402
from lanner.distributed.zero import ZeroEngine, check_zero  # noqa: E402
from lanner.errors import ConfigError, MissingExtraError  # noqa: E402

TWO = EngineConfig(Degrees(replicas=2), micro_batches=4, engine="deepspeed")


PARTS = EngineConfig(Degrees(pipeline=2), micro_batches=8, engine="deepspeed")
WAYS = {
    "ZeRO": [replace(TWO, zero=stage) for stage in (1, 2, 3)],
    "offload": [replace(TWO, zero=2, offload="optimizer"), replace(TWO, zero=3, offload="weights")],
    "pipeline": [PARTS],
    "AutoTP": [replace(PARTS, degrees=Degrees(tensor=2), zero=zero) for zero in (1, 3)],
}


def _losses(family: str, lora: bool, configs: list[EngineConfig], whole: bool) -> list[list[float]]:
    """Losses of ten steps: five by one engine, five by a new one that went on with its state."""
    found = []
    for config in configs:
        losses, state, steps = [], None, 0
        for kind in (ZeroEngine, ZeroEngine if config.zero > 1 else Engine):
            engine = kind(small_chain(family, lora=lora), config, adamw)
            if steps:
                flat = torch.stack(state) if state else torch.empty(3, engine_size(engine))
                torch.distributed.broadcast(flat, 0)
                engine.set_state(steps, list(flat))
            for step in range(steps, steps + 5):
                ids, mask, rows = pairs(step)
                one = engine.step_whole(ids, mask, pairs_loss) if whole else engine.step(ids, mask, rows, pairs_loss)
                losses.append(one)
            state, steps = engine.state(), steps + 5
        found.append(losses)
    return found


def engine_size(engine: Engine) -> int:
    return sum(shape.numel() for shape in engine.whole_shapes.values())


@pytest.mark.parametrize(
    ("way", "lora"),
    [(way, lora) for way in WAYS for lora in (False, True) if way != "AutoTP" or not lora],
    ids=lambda given: given if isinstance(given, str) else "lora" if given else "full",
)
def test_losses_are_those_of_one_process_and_another_engine_goes_on(way, lora):
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    expected = reference("bert", lora=lora, whole=True)
    for losses in run_ranks(2, _losses, "bert", lora, WAYS[way], True):
        assert losses == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("way", ["pipeline", "AutoTP"])
def test_so_are_those_of_a_decoder(way):
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    expected = reference("llama", lora=False, whole=False)
    for losses in run_ranks(2, _losses, "llama", False, WAYS[way], False):
        assert losses == pytest.approx(expected, abs=1e-5)


def _kept_by_the_processor() -> list[bool]:
    made = [ZeroEngine(small_chain("bert"), config, adamw)._divided for config in WAYS["offload"]]
    return [made[0].cpu_offload, made[1].offload_optimizer, made[1].offload_param]


def test_deepspeed_takes_the_setting_for_offload():
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    assert run_ranks(2, _kept_by_the_processor) == [True, True, True]


def _refused_adapters() -> str:
    try:
        ZeroEngine(small_chain("bert", lora=True), WAYS["AutoTP"][0], adamw)
    except ConfigError as error:
        return str(error)
    return ""


def test_adapters_that_autotp_would_drop_are_refused():
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    said = run_ranks(2, _refused_adapters)
    assert "drops the adapter; set adaptation.method=full, or use parallel.engine=torch" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"degrees": Degrees(shards=2)}, r"takes parallel\.zero=3 in place of shards, received: pp 1"),
        ({"degrees": Degrees(pipeline=2, tensor=2)}, r"takes pp or tp, received both: .*use parallel\.engine=torch"),
        ({"degrees": Degrees(pipeline=2), "zero": 2}, r"pipeline supports only parallel\.zero=1, received 2"),
        ({"degrees": Degrees(pipeline=2), "schedule": "zbv"}, "supports only the schedule 1f1b, received zbv"),
        ({"degrees": Degrees.parse("tp=2,replicate=2")}, "received: tp 2 × replicate 2 .* write replicate first"),
        ({"compression": "int8"}, r"parallel\.compression needs parallel\.engine=torch"),
        ({"shares": (1, 2)}, r"parallel\.shares needs parallel\.engine=torch"),
    ],
    ids=["shards", "pp and tp", "pp and zero", "schedule", "order", "compression", "shares"],
)
def test_what_deepspeed_does_not_do_here_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        check_zero(replace(TWO, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": "torch", "offload": "optimizer"}, r"offload=optimizer needs parallel\.engine=deepspeed"),
        ({"zero": 2, "offload": "weights"}, r"offload=weights needs parallel\.zero=3, received 2"),
    ],
    ids=["torch", "zero 2"],
)
def test_offload_without_what_it_needs_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TWO, **change)


def test_a_missing_deepspeed_is_named(monkeypatch):
    monkeypatch.setattr("lanner.distributed.zero.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'deepspeed'.*lanner\[deepspeed\]"):
        check_zero(TWO)
