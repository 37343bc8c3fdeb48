import numpy as np
import pytest
from random_events import random_events

from lanner.errors import ConfigError, DataError
from lanner.models import ease
from lanner.models.ease import EASE, EASEConfig


@pytest.mark.parametrize("items_per_block", [5, 512])
def test_equals_the_formula_of_the_paper(monkeypatch, items_per_block):
    monkeypatch.setattr(ease, "_ITEMS_PER_BLOCK", items_per_block)
    dataset, met = random_events()
    model = EASE(EASEConfig(regularisation=7)).fit(dataset)
    inverse = np.linalg.inv(met.T @ met + 7 * np.eye(met.shape[1]))
    expected = np.eye(met.shape[1]) - inverse / np.diag(inverse)
    np.testing.assert_allclose(model.score(dataset.user_batch()), met @ expected, atol=2e-5)
    assert (model.scoring_model.item_to_item.matrix().diagonal() == 0).all()
    assert model.scoring_model.item_to_item.lost == 0


def test_only_the_strongest_entries_are_kept_and_what_is_lost_is_stated():
    dataset, _ = random_events()
    whole, cut = (EASE(EASEConfig(7, neighbours)).fit(dataset).scoring_model.item_to_item for neighbours in (99, 4))
    kept, dense = cut.matrix().toarray(), whole.matrix().toarray()
    assert ((kept != 0).sum(axis=1) <= 4).all()
    assert (np.sort(np.abs(kept), axis=1)[:, -4:] == np.sort(np.abs(dense), axis=1)[:, -4:]).all()
    assert cut.lost == pytest.approx(1 - np.abs(kept).sum() / np.abs(dense).sum(), abs=1e-6)


def test_refuses_what_would_not_fit_in_memory():
    dataset, _ = random_events(num_users=2, num_items=600, share=0.05)
    with pytest.raises(DataError, match=r"1 MiB for 600 items.*memory_limit_mib") as caught:
        EASE(EASEConfig(memory_limit_mib=1)).fit(dataset)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"regularisation": 0}, {"regularisation": float("nan")}, {"memory_limit_mib": 0}, {"neighbours": 0}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        EASEConfig(**settings)
