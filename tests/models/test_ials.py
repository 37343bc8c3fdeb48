import sys

import numpy as np
import pytest
import scipy.sparse as sp
from random_events import random_events

from lanner.errors import ConfigError, MissingExtraError
from lanner.models.ials import IALS, IALSConfig


def test_fold_in_minimises_the_weighted_loss():
    pytest.importorskip("implicit")
    dataset, met = random_events()
    model = IALS(IALSConfig(factors=4, alpha=5, regularisation=0.5)).fit(dataset)
    items = model.state()[0]["item_factors"].astype(np.float64)
    for history, scores in zip(met, model.score(dataset.user_batch()), strict=True):
        confidence = np.diag(np.where(history > 0, 5.0, 1.0))
        user = np.linalg.solve(items.T @ confidence @ items + 0.5 * np.eye(4), items.T @ confidence @ history)
        np.testing.assert_allclose(scores, items @ user, atol=1e-4)


def test_fold_in_agrees_with_the_factors_of_the_training():
    implicit = pytest.importorskip("implicit.cpu.als")
    dataset, met = random_events()
    model = IALS(IALSConfig(factors=4, alpha=5, regularisation=0.5)).fit(dataset)
    peer = implicit.AlternatingLeastSquares(factors=4, alpha=5, regularization=0.5)
    peer.item_factors = model.state()[0]["item_factors"]
    rows = np.arange(dataset.num_users)
    theirs = peer.recalculate_user(rows, sp.csr_matrix(met.astype(np.float32)))
    np.testing.assert_allclose(model.score(dataset.user_batch()), theirs @ peer.item_factors.T, atol=1e-4)


def test_without_the_package_the_install_line_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    with pytest.raises(MissingExtraError, match=r"lanner\[baselines\]"):
        IALS().fit(random_events()[0])


@pytest.mark.parametrize("setting", ["factors", "iterations", "regularisation", "alpha"])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ConfigError, match=setting):
        IALSConfig(**{setting: 0})
