"""``lanner profile --training``."""

import json

import pytest
from cli_calls import complaint

pytest.importorskip("torch", reason="the extra 'language' is not installed")

from lanner.distributed import timeline
from lanner.distributed.timeline import Span

SPANS = [Span(0, "forward", 0.0, 1.0, 0), Span(0, "backward", 1.0, 3.0, 0), Span(1, "bubble", 0.0, 1.0)]


@pytest.fixture
def measured(monkeypatch):
    asked = []
    monkeypatch.setattr(timeline, "measure", lambda *given: asked.append(given) or SPANS)
    return asked


def test_a_step_is_shown_as_shares_and_as_a_picture(ask, measured, tmp_path):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    code, out, _ = ask("profile", "--training", "--schedule", "gpipe", "--plot", tmp_path / "step.svg")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "gpipe, pp 2 × replicate 1 × shard 1 × tp 1 = 2 ranks, 8 micro-batches: 3,000 ms a step" in out
    assert "bubble 17%" in out
    assert "<svg" in (tmp_path / "step.svg").read_text()
    facts = json.loads(ask("profile", "--training", "--json", "--rows", "16")[1])
    assert facts["shares"]["forward"] == pytest.approx(1 / 6)
    assert facts["spans"][0] == {"rank": 0, "what": "forward", "begin": 0.0, "end": 1.0, "micro_batch": 0}
    assert [given[1].schedule for given in measured] == ["gpipe", "1f1b"]
    assert measured[1][2:] == (16, 32, "auto", "auto")


def test_the_device_and_the_arithmetic_are_those_given(ask, measured):
    ask("profile", "--training", "--device", "cpu", "--dtype", "bfloat16")
    assert measured[0][4:] == ("cpu", "bfloat16")


def test_a_bundle_or_training_never_both(ask):
    assert "either a BUNDLE or --training" in complaint(ask("profile"))
    assert "either a BUNDLE or --training" in complaint(ask("profile", "a-bundle", "--training"))


def test_options_of_the_other_kind_of_profile_are_refused(ask):
    assert "--rows has no effect without --training" in complaint(ask("profile", "a-bundle", "--rows", 16))
    assert "--device has no effect without --training" in complaint(ask("profile", "a-bundle", "--device", "cpu"))
    assert "--text has no effect with --training" in complaint(ask("profile", "--training", "--text", "slow"))


def test_degrees_without_a_pipeline_are_refused(ask):
    assert "needs pp 2 or more" in complaint(ask("profile", "--training", "--parallel", "replicate=2"))


def test_more_ranks_than_gpus_are_refused(ask):
    said = complaint(ask("profile", "--training", "--parallel", "pp=64", "--device", "cuda", "--micro-batches", "64"))
    assert "--device cuda: pp 64" in said
    assert "CUDA devices" in said


def test_micro_batches_that_a_schedule_cannot_run_are_refused(ask):
    said = complaint(ask("profile", "--training", "--schedule", "interleaved", "--micro-batches", "5"))
    assert "schedule interleaved over pp 2 cannot run 5 micro-batches; give a multiple of 2" in said


def test_texts_longer_than_the_model_reads_are_refused(ask):
    said = complaint(ask("profile", "--training", "--tokens", "100000"))
    assert "texts of 100000 tokens: this model reads at most" in said
