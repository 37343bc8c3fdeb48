"""The secure sum is exact, and a single client's message reveals nothing of its values."""

import numpy as np
import pytest

from lanner.errors import ConfigError
from lanner.federated.secure_sum import FixedPoint, Masker, neighbours_of, total_of

pytest.importorskip("cryptography", reason="cryptography is not installed")

SIZE = 50
WHOLE, FINE = FixedPoint(1, ((SIZE, 32),)), FixedPoint(2.0**32, ((SIZE, 64),))
MIXED = FixedPoint(1, ((7, 1), (3, 64), (21, 13), (19, 15)))
ODD = FixedPoint(1, ((11, 16), (1, 5), (38, 12)), signed=False)


def sent(vectors, round_number=1, form=WHOLE):
    """What the clients' words are after they were packed and unpacked."""
    maskers = [Masker(number) for number in range(len(vectors))]
    keys = {one.number: one.public_key for one in maskers}
    pairs = zip(maskers, vectors, strict=True)
    return [form.unpacked(form.packed(one.masked(form.encoded(row), keys, round_number))) for one, row in pairs]


def wide(size, bits=32):
    return FixedPoint(1, ((size, bits),))


def vectors_of(form, clients):
    """Values whose sum over the clients just fits."""
    bits = np.repeat([one[1] for one in form.runs], [one[0] for one in form.runs])
    least, above = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1)) if form.signed else (0 * bits, 2.0**bits)
    random = np.random.default_rng(0)
    shares = np.floor(np.minimum((above - 1) / form.scale / clients, 2**40))
    lowest = np.ceil(np.maximum(least / form.scale / clients, -(2**40)))
    return np.rint(lowest + random.random((clients, form.size)) * (shares - lowest))


@pytest.mark.parametrize("form", [WHOLE, FINE, MIXED, ODD])
@pytest.mark.parametrize("clients", [2, 3, 5, 9, 20])
def test_masks_cancel_in_the_sum(clients, form):
    vectors = vectors_of(form, clients)
    np.testing.assert_array_equal(form.decoded(total_of(sent(vectors, form=form))), vectors.sum(axis=0))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 7, 8, 9, 13, 16, 17, 31, 33, 52])
def test_the_outermost_values_of_each_width_survive(bits, signed):
    form = FixedPoint(1, ((9, bits),), signed)
    outermost = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1]
    values = np.resize(np.array(outermost, float), 9)
    message = form.packed(form.encoded(values))
    assert len(message) == form.num_bytes == -(-9 * bits // 8)
    np.testing.assert_array_equal(form.decoded(form.unpacked(message)), values)


def test_runs_longer_than_a_chunk_are_packed_without_gaps():
    form = FixedPoint(1, ((70_001, 3), (140_003, 5)), signed=False)
    values = np.random.default_rng(0).integers(0, 8, form.size).astype(float)
    message = form.packed(form.encoded(values))
    assert len(message) == form.num_bytes == -(-70_001 * 3 // 8) + -(-140_003 * 5 // 8)
    np.testing.assert_array_equal(form.decoded(form.unpacked(message)), values)


@pytest.mark.parametrize(("bits", "distinct"), [(32, 199_000), (13, 2**13)])
def test_each_client_sends_what_looks_random(bits, distinct):
    form = wide(200_000, bits)
    masked = [words & (2**bits - 1) for words in sent(np.zeros((3, 200_000)), form=form)]
    for words in masked:
        assert abs(words.astype(np.float64).mean() / 2 ** (bits - 1) - 1) < 0.02
        assert len(np.unique(words)) >= distinct
    # Without one of them nothing cancels.
    assert np.count_nonzero(form.decoded(total_of(masked[:2]))) > 199_000


def test_a_mask_is_another_in_each_round():
    maskers, form = [Masker(0), Masker(1)], wide(1000)
    keys = {one.number: one.public_key for one in maskers}
    first, second = (maskers[0].masked(form.encoded(np.zeros(1000)), keys, number) for number in (1, 2))
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
    values, form = np.array([0.1, -2.5, 3.0]), FixedPoint(2.0**32, ((3, 64),))
    np.testing.assert_allclose(form.decoded(form.encoded(values)), values, rtol=0, atol=2**-33)


@pytest.mark.parametrize("values", [[np.nan], [np.inf], [2.0**31], [-(2.0**31) - 1]])
def test_what_does_not_fit_is_refused(values):
    with pytest.raises(ConfigError, match="do not fit 32 bits"):
        wide(1).encoded(np.array(values))


@pytest.mark.parametrize("values", [[-1.0], [8192.0]])
def test_counts_that_do_not_fit_are_refused(values):
    with pytest.raises(ConfigError, match="do not fit 13 bits"):
        FixedPoint(1, ((1, 13),), signed=False).encoded(np.array(values))


def test_values_of_another_number_are_refused():
    with pytest.raises(ConfigError, match=r"the sum has 3 values, received an array of shape \[4\]"):
        wide(3).encoded(np.ones(4))


def test_one_client_alone_is_refused():
    one = Masker(0)
    with pytest.raises(ConfigError, match="at least 2 clients"):
        one.masked(wide(3).encoded(np.ones(3)), {0: one.public_key}, 1)


def test_a_key_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="public key is not valid"):
        Masker(0).masked(wide(3).encoded(np.ones(3)), {0: b"", 1: bytes(3)}, 1)
