"""A training step as work, communication and bubble."""

import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
pytest.importorskip("transformers", reason="the extra 'language' is not installed")

from tiny_language_models import save_model  # noqa: E402

from lanner.distributed.config import EngineConfig  # noqa: E402
from lanner.distributed.degrees import Degrees  # noqa: E402
from lanner.distributed.simulator import order_of, simulate  # noqa: E402
from lanner.distributed.timeline import Span, draw, measure, share, spans_of  # noqa: E402
from lanner.errors import ConfigError  # noqa: E402

PP2 = Degrees(pipeline=2)


def _step(schedule: str, hop: float, stages: int = 2):
    """A simulated step in the form of a measured one, on a clock that began long ago."""
    made = simulate(order_of(schedule, 2, 4), [1.0] * stages, [2.0] * stages, lambda one, other: (hop, 0.0))
    events = [one._replace(begin=one.begin + 100, end=one.end + 100) for one in made.events]
    return made, events, max(one.end for one in events)


@pytest.mark.parametrize(("schedule", "stages"), [("gpipe", 2), ("1f1b", 2), ("interleaved", 4), ("zero-bubble", 4)])
def test_without_communication_all_idle_time_is_bubble(schedule, stages):
    made, events, end = _step(schedule, 0.0, stages)
    spans = spans_of(events, [end, end], PP2)
    assert share(spans, "communication") == 0
    assert share(spans, "bubble") == pytest.approx(made.bubble)
    assert share(spans, "weight gradient") == pytest.approx(
        sum(one.end - one.begin for one in made.events if one.operation.kind == "W") / (2 * made.seconds)
    )


def test_waiting_for_what_is_on_its_way_is_communication():
    _, events, end = _step("gpipe", 0.25)
    spans = spans_of(events, [end + 0.5, end + 0.5], PP2)
    assert spans[0] == Span(0, "forward", 0.0, 1.0, 0)
    second = [one for one in spans if one.rank == 1]
    assert second[:3] == [
        Span(1, "bubble", 0.0, 1.0),
        Span(1, "communication", 1.0, 1.25),
        Span(1, "forward", 1.25, 2.25, 0),
    ]
    assert second[-1] == Span(1, "communication", end - 100, end + 0.5 - 100)
    for rank in (0, 1):
        mine = [one for one in spans if one.rank == rank]
        assert sum(one.end - one.begin for one in mine) == pytest.approx(mine[-1].end), "time is lost or counted twice"


def test_a_pipeline_does_not_wait_for_that_of_another_replica():
    _, events, end = _step("gpipe", 0.0)
    late = [one._replace(rank=one.rank + 2, begin=one.begin + 5, end=one.end + 5) for one in events]
    spans = spans_of([*late, *events], [end + 5] * 4, Degrees.parse("replicate=2,pp=2"))
    assert share(spans, "communication") == 0


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return save_model("bert", tmp_path_factory.mktemp("models") / "tiny")


@pytest.mark.slow
def test_a_measured_step_has_every_operation(tmp_path, tiny_model):
    spans = measure(str(tiny_model), EngineConfig(PP2, "zero-bubble", 4), 8, 8)
    for what in ("forward", "input gradient", "weight gradient"):
        for rank in (0, 1):
            done = sorted(one.micro_batch for one in spans if (one.what, one.rank) == (what, rank))
            assert done == sorted([*range(4)] * 2), (what, rank, "two stages a rank")
    assert 0 < share(spans, "bubble") < 1
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    draw(tmp_path / "step.svg", spans, "a step")
    assert "<svg" in (tmp_path / "step.svg").read_text()


@pytest.mark.slow
def test_what_has_no_pipeline_or_does_not_fit_is_refused(tiny_model):
    with pytest.raises(ConfigError, match="needs pp 2 or more"):
        measure(None, EngineConfig(Degrees(replicas=2)), 8, 8)
    with pytest.raises(ConfigError, match="8 rows cannot be divided into 3 equal micro-batches"):
        measure(str(tiny_model), EngineConfig(PP2, "1f1b", 3), 8, 8)
