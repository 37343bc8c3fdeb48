"""The secure sum is exact, and a single client's message reveals nothing of its values."""

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.federated.secure_sum import FixedPoint, Masker, neighbours_of, total_of

pytest.importorskip("cryptography", reason="cryptography is not installed")


WHOLE, FINE = FixedPoint(1, 32), FixedPoint(2.0**32, 64)


def sent(vectors, round_number=1, form=WHOLE):
    maskers = [Masker(number) for number in range(len(vectors))]
    keys = {one.number: one.public_key for one in maskers}
    return [one.masked(form.encoded(row), keys, round_number) for one, row in zip(maskers, vectors, strict=True)]


@pytest.mark.parametrize("form", [WHOLE, FINE])
@pytest.mark.parametrize("clients", [2, 3, 5, 9, 20])
def test_masks_cancel_in_the_sum(clients, form):
    vectors = np.random.default_rng(0).integers(-1000, 1000, (clients, 50))
    np.testing.assert_array_equal(form.decoded(total_of(sent(vectors, form=form))), vectors.sum(axis=0))


def test_each_client_sends_what_looks_random():
    masked = sent(np.zeros((3, 100_000)))
    for words in masked:
        assert abs(words.astype(np.float64).mean() / 2**31 - 1) < 0.02
        assert len(np.unique(words)) > 99_000
    # Without one of them nothing cancels.
    assert np.count_nonzero(total_of(masked[:2])) > 99_000


def test_a_mask_is_another_in_each_round():
    maskers = [Masker(0), Masker(1)]
    keys = {one.number: one.public_key for one in maskers}
    first, second = (maskers[0].masked(WHOLE.encoded(np.zeros(1000)), keys, number) for number in (1, 2))
    assert np.count_nonzero(first == second) < 5


@pytest.mark.parametrize("clients", [2, 3, 4, 9, 10, 100])
def test_neighbours_are_mutual(clients):
    numbers = list(range(5, 5 + 3 * clients, 3))
    for one in numbers:
        near = neighbours_of(one, numbers)
        assert one not in near
        assert len(near) == min(8, clients - 1 if clients < 4 else 2 * ((clients - 1) // 2))
        assert all(one in neighbours_of(other, numbers) for other in near)


def test_fractions_are_rounded_to_the_scale():
    values = np.array([0.1, -2.5, 3.0])
    np.testing.assert_allclose(FINE.decoded(FINE.encoded(values)), values, rtol=0, atol=2**-33)


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [2.0**31]])
def test_what_does_not_fit_is_refused(values):
    with pytest.raises(ConfigError, match="do not fit 32 bits"):
        WHOLE.encoded(np.array(values))


def test_one_client_alone_is_refused():
    one = Masker(0)
    with pytest.raises(ConfigError, match="at least 2 clients"):
        one.masked(WHOLE.encoded(np.ones(3)), {0: one.public_key}, 1)


def test_a_key_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="public key is not valid"):
        Masker(0).masked(WHOLE.encoded(np.ones(3)), {0: b"", 1: bytes(3)}, 1)
