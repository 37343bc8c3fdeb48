"""Settings: nearest keys, types by name, TOML round trips."""

from dataclasses import dataclass, replace
from typing import Literal

import pytest

from lanner.config import EvaluationConfig, RunConfig, from_dict, read_config, to_dict, with_device, with_seed
from lanner.data.feedback import FeedbackConfig
from lanner.errors import ConfigError
from lanner.settings import build, overridden


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    layers: tuple[int, ...] = (1, 2)
    fusion: Literal["concat", "gated"] = "concat"
    folder: str | None = None


@dataclass(frozen=True)
class Outer:
    steps: int
    inner: Inner = Inner()


def refused(message, values, kind=Outer):
    with pytest.raises(ConfigError) as error:
        build(kind, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nested_values_of_every_kind():
    built = build(Outer, {"steps": 3, "inner": {"rate": 1, "layers": [4], "fusion": "gated", "folder": "x"}})
    assert built == Outer(3, Inner(1.0, (4,), "gated", "x"))
    assert isinstance(built.inner.rate, float)


def test_a_misspelt_key_names_the_nearest():
    refused("unknown setting 'inner.fusoin'; did you mean 'inner.fusion'?", {"steps": 1, "inner": {"fusoin": "gated"}})
    refused("unknown setting 'zzz'; known settings: steps, inner", {"steps": 1, "zzz": 1})


def test_a_wrong_type_names_key_received_and_expected():
    refused("steps: received 'many' (str), expected int", {"steps": "many"})
    refused("steps: received True (bool), expected int", {"steps": True})
    refused(
        "inner.fusion: received 'sum' (str), expected one of 'concat', 'gated'",
        {"steps": 1, "inner": {"fusion": "sum"}},
    )
    refused("inner.layers: received 3 (int), expected a list of int", {"steps": 1, "inner": {"layers": 3}})
    refused("inner.folder: received 3 (int), expected str", {"steps": 1, "inner": {"folder": 3}})
    refused("inner: received 3 (int), expected a table", {"steps": 1, "inner": 3})
    refused("the setting 'steps' is missing", {})


def test_settings_from_toml_and_as_a_table(tmp_path):
    odd = replace(RunConfig(), model="näme", evaluation=EvaluationConfig(ks=(5,), threshold=1e-9))
    odd = replace(odd, feedback=FeedbackConfig(3.5, {"add to cart": 2.0, "view": 0.5}))
    file = tmp_path / "run.toml"
    feedback = '[feedback]\npositive_threshold = 3.5\nbehaviour_weights = {"add to cart" = 2.0, view = 0.5}'
    file.write_text(f'model = "näme"\n[evaluation]\nks = [5]\nthreshold = 1e-9\n{feedback}', encoding="utf-8")
    assert read_config(file) == odd
    assert from_dict(to_dict(odd)) == odd


def test_a_config_file_that_cannot_be_used(tmp_path):
    file = tmp_path / "run.toml"
    for text, message in [("split = [", "not TOML"), ("[splt]\ntest = 1", "did you mean 'split'?")]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"run\.toml") as error:
            read_config(file)
        assert message in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "absent.toml")


def test_overrides_are_checked_like_files():
    config = overridden(
        RunConfig(), ["split.test=0.5", "model=popularity", "item-knn.neighbours=7", "evaluation.ks=[3]"]
    )
    assert (config.split.test, config.model, config.item_knn.neighbours) == (0.5, "popularity", 7)
    assert config.evaluation.ks == (3,)
    for override, message in [
        ("split.tset=1", "did you mean 'split.test'?"),
        ("split", "expected section.key=value"),
        ("model.x=1", "model: received"),
        ("ease.regularisation=-1", "ease.regularisation must be above 0"),
        ("ials.iterations=0", "ials.iterations must be at least 1, received 0"),
        ("graph-filter.rank=-1", "graph_filter.rank must be at least 0, received -1"),
        ("item_knn.neighbours=0", "item_knn.neighbours must be at least 1, received 0"),
        ("training.learning_rate=0", "training.learning_rate must be above 0, received 0"),
        ("neural.layers=-1", "neural.layers must be at least 0, received -1"),
        ("evaluation.ks=[10, 999999999]", "evaluation.ks must be one or more numbers from 1 to 10,000"),
        ("feedback.positive_threshold=high", "received 'high' (str), expected float or one of 'auto', 'none'"),
        ("feedback.behaviour_weights.view=-1", "feedback.behaviour_weights.view must be at least 0"),
    ]:
        with pytest.raises(ConfigError) as error:
            overridden(RunConfig(), [override])
        assert message in str(error.value)


def test_seed_and_device_reach_every_part_but_the_split():
    config = with_device(with_seed(RunConfig(), 7), "cpu")
    assert (config.random.seed, config.ials.seed, config.split.seed, config.evaluation.seed) == (7, 7, 0, 0)
    assert (config.training.device, config.neural.encoder.device) == ("cpu", "cpu")
    assert config.training.seed == 7
