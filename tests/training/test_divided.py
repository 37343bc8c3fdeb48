"""Adaptation divided over ranks gives the losses, weights and checkpoints of a single process."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("peft", reason="the extra 'adapt' is not installed")

from test_adaptation import LORA, NETWORK, TRAINING, bookshop, language_of  # noqa: E402
from tiny_language_models import save_model  # noqa: E402

from benchmarks._ranks import run_ranks  # noqa: E402
from lanner.data.splitting import random_ratio  # noqa: E402
from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.engine import Engine  # noqa: E402
from lanner.distributed.ranks import agreed, follow, part  # noqa: E402
from lanner.errors import ConfigError, Interrupted, LannerError  # noqa: E402
from lanner.training.adaptation import EncoderAdaptation  # noqa: E402
from lanner.training.checkpoint import FILE  # noqa: E402
from lanner.training.config import AdaptationConfig  # noqa: E402
from lanner.training.divided import prepare  # noqa: E402
from lanner.training.loop import Loop  # noqa: E402

# Adam turns the last digits of small gradients into steps as large as any; small rates keep them last digits.
SLOW_VIEW = replace(TRAINING, learning_rate=1e-3)
SMALL_STEPS = replace(LORA, learning_rate=3e-4)
FULL = replace(LORA, method="full", learning_rate=3e-5)
COMPANIONS = replace(SMALL_STEPS, objective="companions")


def adapted(
    model: str,
    config: AdaptationConfig,
    parallel: EngineConfig | None,
    folder: str = "",
    stop: int = -1,
    seconds: float = 60.0,
):
    """Losses of all steps, weights and best quality of an adaptation, on rank 0; or what was refused."""
    rank, parallel, divided = torch.distributed.get_rank(), parallel or EngineConfig(), parallel is not None
    language = language_of(Path(model))
    if not divided:
        torch.distributed.barrier()  # the other rank may still be connecting
        torch.distributed.destroy_process_group()
        if rank:
            return None
    elif rank:
        try:
            follow(lambda: prepare(language, config, parallel))
        except LannerError:
            pass
        finally:
            part()
        return None
    losses, original = [], Loop._step

    def step(self, task, *rest):
        if len(losses) == stop:
            signal.raise_signal(signal.SIGINT)
        losses.append(original(self, task, *rest))
        return losses[-1]

    Loop._step = step
    place = Path(folder) if folder else None
    adapt = EncoderAdaptation(
        config, NETWORK, replace(SLOW_VIEW, checkpoint_seconds=seconds), place, progress=False, parallel=parallel
    )
    split = random_ratio(bookshop(), 0.2, 0.2)
    try:
        learned = adapt(language, split.train, split.validation)
        weights = (language if learned is None else learned.encoder).weights
    except Interrupted:
        weights = {}
    except LannerError as error:
        return str(error)
    finally:
        Loop._step = original
        part()
    qualities = [quality for _, quality in adapt.curve]
    return losses, {name: torch.from_numpy(value.copy()) for name, value in weights.items()}, qualities


def parallel_of(text: str, **settings) -> EngineConfig:
    return EngineConfig(Degrees.parse(text), **settings)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_model("bert", tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def alone(model):
    """What one process gives, by method; forked as the ranks are, for numba may not be used on both sides of a fork."""
    return {config.method: run_ranks(2, adapted, model, config, None) for config in (SMALL_STEPS, FULL)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))


def assert_same(found, expected):
    assert not isinstance(found, str), found
    losses, weights, qualities = found
    assert losses == pytest.approx(expected[0], abs=1e-5)
    assert qualities == pytest.approx(expected[2], abs=1e-3)
    assert weights.keys() == expected[1].keys()
    for name, weight in expected[1].items():
        torch.testing.assert_close(weights[name], weight, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "parallel",
    [
        parallel_of("replicate=2"),
        parallel_of("replicate=2", shares=(2, 1)),
        parallel_of("replicate=2", micro_batches=4, balancing=True),
        parallel_of("pp=2", micro_batches=4),
        parallel_of("pp=2", micro_batches=4, balancing=True),
        parallel_of("tp=2"),
        parallel_of("shard=2", micro_batches=2),
    ],
    ids=["DP", "uneven shares", "balanced DP", "PP", "balanced PP", "TP", "FSDP2"],
)
@pytest.mark.parametrize("config", [SMALL_STEPS, FULL], ids=["lora", "full"])
def test_losses_and_weights_are_those_of_one_process(model, alone, config, parallel):
    assert_same(run_ranks(2, adapted, model, config, parallel), alone[config.method])


@pytest.mark.parametrize(
    ("config", "parallel"),
    [
        (SMALL_STEPS, parallel_of("pp=2", micro_batches=4, engine="deepspeed")),
        (FULL, parallel_of("tp=2", engine="deepspeed")),
        (FULL, parallel_of("replicate=2", engine="deepspeed", zero=3, offload="weights")),
    ],
    ids=["PP", "AutoTP", "ZeRO-3 offload"],
)
def test_so_are_those_by_deepspeed(model, alone, config, parallel):
    pytest.importorskip("deepspeed", reason="the extra 'deepspeed' is not installed")
    assert_same(run_ranks(2, adapted, model, config, parallel), alone[config.method])


def test_companions_are_learned_on_two_ranks_as_on_one(model):
    alone, divided = (run_ranks(2, adapted, model, COMPANIONS, one) for one in (None, parallel_of("replicate=2")))
    assert_same(divided, alone)


def test_stopped_on_two_ranks_it_goes_on_with_other_degrees_or_on_one(model, alone, tmp_path):
    losses, weights, _ = run_ranks(2, adapted, model, SMALL_STEPS, parallel_of("replicate=2"), str(tmp_path), 10)
    assert (len(losses), weights) == (11, {}), "the step that Ctrl-C falls into is finished"
    expected = alone["lora"]
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy)
    for folder, parallel in ((tmp_path, parallel_of("pp=2", micro_batches=2)), (copy, None)):
        rest, weights, _ = run_ranks(2, adapted, model, SMALL_STEPS, parallel, str(folder))
        assert rest == pytest.approx(expected[0][11:], abs=1e-5)
        for name, weight in expected[1].items():
            torch.testing.assert_close(weights[name], weight, atol=1e-3, rtol=0)


def killed(model: str, config: AdaptationConfig, parallel: EngineConfig, folder: str, step: int, seconds: float):
    """The second rank is killed in a step of the language model."""
    original = Engine.learn

    def learn(self, *given):
        if self.steps == step and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, *given)

    Engine.learn = learn
    return adapted(model, config, parallel, folder, seconds=seconds)


def test_after_a_rank_was_killed_within_an_epoch_no_finished_step_is_repeated(model, tmp_path):
    config, parallel = replace(SMALL_STEPS, tokens_per_step=100, epochs=1), parallel_of("replicate=2")
    expected, weights, _ = run_ranks(2, adapted, model, config, parallel)
    # Of the ranks, the one that was killed or the one that lost it may be noticed first.
    ended = (torch.multiprocessing.ProcessExitedException, torch.multiprocessing.ProcessRaisedException)
    with pytest.raises(ended):
        run_ranks(2, killed, model, config, parallel, str(tmp_path), 5, 0.0)
    with safe_open(tmp_path / FILE, "np") as file:
        progress = json.loads(file.metadata()["progress"])
    assert (progress["task"], progress["step"]) == (1, 5), "five steps were finished"
    rest, found, _ = run_ranks(2, adapted, model, config, parallel, str(tmp_path))
    assert len(rest) > 1
    assert rest == pytest.approx(expected[-len(rest) :], abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, atol=1e-3, rtol=0)


def test_checkpoints_at_times_of_the_clock_do_not_average_replicas_that_learn_alone(model, tmp_path):
    parallel = parallel_of("replicate=2", local_steps=3, outer_rate=1.0, outer_momentum=0.0)
    runs = [run_ranks(2, adapted, model, SMALL_STEPS, parallel, folder, -1, 0.0) for folder in ("", str(tmp_path))]
    assert runs[0][0] == runs[1][0]


@pytest.mark.parametrize(
    ("change", "parallel", "words"),
    [
        ({}, parallel_of("pp=2", schedule="interleaved", bounds=(0, 2, 4)), "do not cut 4 layers into 4 stages"),
        ({"trained_layers": 1}, parallel_of("pp=2"), "layers 0 to 1 are a stage of the pipeline and none of them is"),
        ({"method": "dora"}, parallel_of("tp=2"), "DoRA cannot be combined with tensor parallelism"),
        ({"rank": 33}, parallel_of("replicate=2"), "adaptation.rank=33 exceeds the 32 dimensions"),
        ({}, parallel_of("replicate=2", compression="zip"), "compression"),
        (
            {"method": "full", "learning_rate": 1e30},
            parallel_of("pp=2", micro_batches=4),
            "'language model' diverged in epoch 1 after 1 steps: the sum of the vectors is nan at step 1, batch of",
        ),
        ({}, parallel_of("replicate=3"), "replicate 3 × pp 1 × shard 1 × tp 1 = 3 ranks, but there are 2"),
    ],
    ids=["bounds", "frozen stage", "dora", "rank", "compression", "divergence", "degrees"],
)
def test_what_cannot_be_divided_is_refused_on_all_ranks(model, change, parallel, words):
    said = run_ranks(2, adapted, model, replace(SMALL_STEPS, **change), parallel)
    assert words in said
    assert "\n" not in said


def _agreed() -> str:
    def read() -> int:
        if torch.distributed.get_rank() == 1:
            raise ConfigError("there is no model.safetensors here")
        return 1

    with pytest.raises(LannerError) as refusal:
        agreed(read)
    return str(refusal.value)


def test_what_one_rank_lacks_is_told_by_all():
    assert run_ranks(2, _agreed) == "rank 1: there is no model.safetensors here"
