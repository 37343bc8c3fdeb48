"""DeepSpeed's steps give the losses of one process, and its state goes over to other engines and back."""

import os
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


def _losses(lora: bool, stages: tuple[int, ...]) -> dict[str, list[float]]:
    """Losses of ten steps: five by one engine, five by a new one that went on with its state."""
    os.environ["LOCAL_RANK"] = str(torch.distributed.get_rank())  # which a launcher would have set
    found = {}
    for stage in stages:
        losses, state, steps = [], None, 0
        for kind in (ZeroEngine, ZeroEngine if stage > 1 else Engine):
            engine = kind(small_chain("bert", lora=lora), replace(TWO, zero=stage), adamw)
            if steps:
                flat = torch.stack(state) if state else torch.empty(3, engine_size(engine))
                torch.distributed.broadcast(flat, 0)
                engine.set_state(steps, list(flat))
            for step in range(steps, steps + 5):
                ids, mask, _ = pairs(step)
                losses.append(engine.step_whole(ids, mask, pairs_loss))
            state, steps = engine.state(), steps + 5
        found[str(stage)] = losses
    return found


def engine_size(engine: Engine) -> int:
    return sum(shape.numel() for shape in engine.whole_shapes.values())


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_losses_are_those_of_one_process_at_every_stage(lora):
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    expected = reference("bert", lora=lora, whole=True)
    for stage, losses in run_ranks(2, _losses, lora, (1, 2, 3)).items():
        assert losses == pytest.approx(expected, abs=1e-5), stage


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"degrees": Degrees(pipeline=2)}, "deepspeed takes replicas alone, not: pp 2"),
        ({"compression": "int8"}, r"parallel\.compression is of parallel\.engine=torch"),
        ({"shares": (1, 2)}, r"parallel\.shares is of"),
    ],
    ids=["pp", "compression", "shares"],
)
def test_what_deepspeed_does_not_do_here_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        check_zero(replace(TWO, **change))


def test_a_missing_deepspeed_is_named(monkeypatch):
    monkeypatch.setattr("lanner.distributed.zero.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'deepspeed'.*lanner\[deepspeed\]"):
        check_zero(TWO)
