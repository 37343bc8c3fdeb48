"""Text features: linear in their fields, and defined for few, odd or no words."""

import numpy as np
import pytest
from stand_ins import encode_words

from lanner.models.text_features import TextFeatures

TEXTS = [f"red{row % 3} thing{row}\nmade by maker{row % 4} in town{row % 2}" for row in range(12)]


@pytest.fixture(scope="module")
def features() -> TextFeatures:
    return TextFeatures.fit(TEXTS, encode_words, meaning_dimensions=8, word_dimensions=5)


def test_both_blocks_have_length_one_or_zero(features):
    rows = features.transform([*TEXTS, ""], encode_words)
    assert rows.shape == (13, features.width) == (13, 13)
    assert rows.dtype == np.float32
    for block in (rows[:, :8], rows[:, 8:]):
        np.testing.assert_allclose(np.linalg.norm(block[:12], axis=1), 1, rtol=1e-5)
    assert (rows[12] == 0).all()


@pytest.mark.parametrize("text", ["red0 thing0 by maker1", TEXTS[0]])
def test_a_text_that_recurs_is_encoded_once(features, text):
    seen = []

    def encode(texts):
        seen.extend(texts)
        return encode_words(texts)

    rows = features.transform([text, "town1", text], encode)
    assert len(seen) == len(set(seen))
    np.testing.assert_array_equal(rows[0], rows[2])


def test_meaning_is_the_centred_embedding_turned_to_its_main_directions(features):
    fields = [text.split("\n") for text in TEXTS]
    embedded = np.stack([encode_words([f[s] for f in fields]) for s in range(2)], axis=1)
    centred = (embedded - embedded.mean(axis=0)).reshape(12, -1)
    _, _, right = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ right[:8].T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = features.transform(TEXTS, encode_words)[:, :8]
    # Directions are known up to their sign, so the products are compared.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_words_of_few_texts_or_of_most_are_left_out(features):
    kept = {"red0", "red1", "red2", "maker0", "maker1", "maker2", "maker3", "town0", "town1"}
    assert set(features.words) == kept


def test_words_weigh_by_rarity_and_turn_to_singular_directions(features):
    counts = np.array([[text.replace("\n", " ").split().count(word) for word in features.words] for text in TEXTS])
    weighted = counts * (np.log(13 / (1 + (counts > 0).sum(axis=0))) + 1)
    weighted = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    values = np.linalg.svd(weighted, compute_uv=False)
    # Some values are equal, so that directions are not unique; what they keep of the texts is.
    kept = weighted @ features.words_WD
    assert (kept**2).sum() == pytest.approx((values[:5] ** 2).sum(), rel=1e-4)
    np.testing.assert_allclose(features.words_WD.T @ features.words_WD, np.eye(5), atol=1e-5)


def test_more_fields_than_known_are_joined_to_the_last(features):
    joined, known = features.transform(["red1\nmaker1\ntown0", "red1\nmaker1 town0"], encode_words)
    np.testing.assert_allclose(joined, known, atol=1e-6)


def test_state_comes_back(features):
    again = TextFeatures.from_state(*features.state())
    np.testing.assert_array_equal(again.transform(TEXTS, encode_words), features.transform(TEXTS, encode_words))


@pytest.mark.parametrize(
    "texts", [["red"], ["red", "red"], ["red thing", "blue thing", "red cup"], ["x", "y"], ["红 色"]]
)
def test_fewer_texts_or_words_than_dimensions(texts):
    features = TextFeatures.fit(texts, encode_words, meaning_dimensions=384, word_dimensions=256, min_count=1)
    rows = features.transform([*texts, "never seen", ""], encode_words)
    assert rows.shape == (len(texts) + 2, features.width)
    assert np.isfinite(rows).all()


def test_words_can_be_left_out():
    assert TextFeatures.fit(TEXTS, encode_words, 8, 0).width == 8
