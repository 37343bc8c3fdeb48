"""``benchmarks.quality`` tunes baselines on validation data only."""

from dataclasses import replace

from stand_ins import small_world

from benchmarks import quality
from lanner.config import from_dict


def test_the_best_setting_on_validation_is_taken_and_test_users_are_never_asked(monkeypatch):
    split = small_world().split("random", seed=1)
    asked = []

    def evaluate(fitted, held_out, **_):
        asked.append(held_out)
        return {"ndcg_at_10": {200.0: 0.4, 100.0: 0.3}.get(fitted.config.regularisation, 0.1)}

    monkeypatch.setattr("lanner.evaluation.protocol.evaluate", evaluate)
    config, said = quality._searched(from_dict({"model": "ease"}), split)
    assert config.ease == replace(config.ease, regularisation=200.0)
    assert (said["chosen"], said["validation_ndcg_at_10"]) == ({"regularisation": 200.0}, 0.4)
    assert all(one is split.validation for one in asked)
