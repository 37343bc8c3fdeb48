"""Texts as features for linear maps: a language model's embedding of each field, and the words themselves.

A sentence encoder blurs names (directors, brands), which words keep; words miss synonyms, which the encoder knows.
Both are kept: ``[meaning ‖ words]``, each block of unit length. Everything before that scaling is linear, so a
text's features are the sum of its fields' features.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import FIELD_SEPARATOR

if TYPE_CHECKING:
    import scipy.sparse as sp

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
_WORD = re.compile(r"\w[\w']+")
_COMMON = 0.5
"""Words in more than this share of the texts are ignored as uninformative."""


@dataclass(frozen=True)
class TextFeatures:
    """Fitted on the texts of a catalogue; maps any text to ``width`` numbers.

    mean_SE: ``[S, E]`` average embedding of each field. meaning_SED: ``[S, E, D]`` principal directions.
    words: the vocabulary. weight_W: inverse document frequencies. words_WD: ``[W, D']`` singular directions.
    """

    mean_SE: NDArray[np.float32]
    meaning_SED: NDArray[np.float32]
    words: tuple[str, ...]
    weight_W: NDArray[np.float32]
    words_WD: NDArray[np.float32]

    @property
    def width(self) -> int:
        return int(self.meaning_SED.shape[2] + self.words_WD.shape[1])

    @classmethod
    def fit(
        cls, texts: Sequence[str], encode: Encode, meaning_dimensions: int, word_dimensions: int, min_count: int = 3
    ) -> Self:
        """Learn averages, directions and the vocabulary from ``texts`` (those of training items only)."""
        known = [text for text in texts if text]
        num_fields = max((text.count(FIELD_SEPARATOR) + 1 for text in known), default=1)
        embedded_TSE, present_TS = _embed_fields(known, encode, num_fields)
        mean_SE = embedded_TSE.sum(0) / np.maximum(present_TS.sum(0), 1)[:, None]
        centred = ((embedded_TSE - mean_SE) * present_TS[:, :, None]).reshape(len(known), -1)
        meaning_SED = _principal_directions(centred, meaning_dimensions).reshape(*mean_SE.shape, -1)
        words, weight_W = _vocabulary(known, min_count)
        numbers = {word: place for place, word in enumerate(words)}
        directions = _singular_directions(_word_matrix(known, numbers, weight_W), word_dimensions)
        return cls(mean_SE.astype(np.float32), meaning_SED.astype(np.float32), words, weight_W, directions)

    def transform(self, texts: Sequence[str], encode: Encode) -> NDArray[np.float32]:
        """Features of each text, float32 ``[T, width]``; zeros for an empty one."""
        dimensions = self.meaning_SED.shape[2]
        rows = np.empty((len(texts), self.width), np.float32)
        rows[:, :dimensions], rows[:, dimensions:] = self._meaning(texts, encode), self._words(texts)
        for block in (rows[:, :dimensions], rows[:, dimensions:]):
            lengths = np.sqrt(np.einsum("td,td->t", block, block))[:, None]
            np.divide(block, lengths, out=block, where=lengths > 1e-8)
        return rows

    def _meaning(self, texts: Sequence[str], encode: Encode) -> NDArray[np.float32]:
        """``[T, D]``, before normalisation."""
        fielded = [row for row, text in enumerate(texts) if FIELD_SEPARATOR in text]
        if not fielded:
            return self._embed_plain_texts(texts, encode)
        meaning_TD = np.empty((len(texts), self.meaning_SED.shape[2]), np.float32)
        embedded_TSE, present_TS = _embed_fields([texts[row] for row in fielded], encode, len(self.mean_SE))
        centred = (embedded_TSE - self.mean_SE) * present_TS[:, :, None]
        meaning_TD[fielded] = np.tensordot(centred, self.meaning_SED, 2)
        plain = [row for row, text in enumerate(texts) if FIELD_SEPARATOR not in text]
        if plain:
            meaning_TD[plain] = self._embed_plain_texts([texts[row] for row in plain], encode)
        return meaning_TD

    def _embed_plain_texts(self, texts: Sequence[str], encode: Encode) -> NDArray[np.float32]:
        """The same for texts without fields, such as a request's: each is used for every field."""
        # The sum of the fields' maps takes a fraction of their memory.
        whole_ED, offset_D = self._plain_text_map
        meaning_TD = _embed(texts, encode) @ whole_ED - offset_D
        blank = [row for row, text in enumerate(texts) if not text.strip()]
        if blank:
            meaning_TD[blank] = 0
        return np.asarray(meaning_TD)

    @cached_property
    def _plain_text_map(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """For a text used for every field: the matrix to multiply by ``[E, D]`` and the offset to subtract ``[D]``."""
        return self.meaning_SED.sum(0), np.einsum("se,sed->d", self.mean_SE, self.meaning_SED)

    def _words(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """``[T, D']``, before normalisation."""
        words_TD = np.empty((len(texts), self.words_WD.shape[1]), np.float32)
        for row, text in enumerate(texts):
            words, weights = _weighted_words(text, self._numbers, self.weight_W)
            words_TD[row] = weights @ self.words_WD[words]
        return words_TD

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    def word_matrix(self, texts: Sequence[str]) -> "sp.csr_matrix":
        """The weights of each text's words, float32 csr ``[T, W]``, rows of unit length or zero."""
        return _word_matrix(texts, self._numbers, self.weight_W)

    def state(self) -> tuple[dict[str, NDArray[Any]], list[str]]:
        """Arrays, and the vocabulary."""
        arrays = {"mean": self.mean_SE, "meaning": self.meaning_SED, "weight": self.weight_W, "words": self.words_WD}
        return arrays, list(self.words)

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], words: Sequence[str]) -> Self:
        """The inverse of ``state``."""
        return cls(arrays["mean"], arrays["meaning"], tuple(words), arrays["weight"], arrays["words"])


def fields_of(text: str, count: int) -> list[str]:
    """Exactly ``count`` fields: a text without separators (a query, an unknown item) is used for all of them."""
    fields = text.split(FIELD_SEPARATOR)
    if len(fields) == 1:
        return fields * count
    fields = [*fields[: count - 1], " ".join(fields[count - 1 :])]
    return fields + [""] * (count - len(fields))


def _embed_fields(
    texts: Sequence[str], encode: Encode, num_fields: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Embeddings ``[T, S, E]`` and which fields are not empty ``[T, S]``."""
    fields = [field for text in texts for field in fields_of(text, num_fields)]
    shape = (len(texts), num_fields)
    present = np.array([bool(field.strip()) for field in fields], bool).reshape(shape)
    return _embed(fields, encode).reshape(*shape, -1), present


def _embed(texts: Sequence[str], encode: Encode) -> NDArray[np.float32]:
    """Embeddings ``[T, E]``; names and profiles recur, so each is encoded once."""
    if len(texts) == 1:
        return encode(texts)
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return encode(list(places))[[places[text] for text in texts]]


def _principal_directions(centred_TX: NDArray[np.float32], dimensions: int) -> NDArray[np.float64]:
    """``[X, D]``, in order of decreasing variance."""
    covariance = centred_TX.T.astype(np.float64) @ centred_TX
    return np.asarray(np.linalg.eigh(covariance)[1][:, ::-1][:, :dimensions])


def _vocabulary(texts: Sequence[str], min_count: int) -> tuple[tuple[str, ...], NDArray[np.float32]]:
    """Words found in at least ``min_count`` texts but not in most, and their inverse document frequencies."""
    counts = Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
    kept = sorted(word for word, count in counts.items() if min_count <= count <= max(_COMMON * len(texts), 1))
    frequencies = np.array([counts[word] for word in kept], np.float32)
    return tuple(kept), np.log((1 + len(texts)) / (1 + frequencies)) + 1


def _weighted_words(
    text: str, numbers: Mapping[str, int], weight_W: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The known words of a text, and (1 + log count) · idf of each, scaled to length 1."""
    found = Counter(number for token in _WORD.findall(text.lower()) if (number := numbers.get(token)) is not None)
    words = np.fromiter(found.keys(), np.int64, len(found))
    weights = (1 + np.log(np.fromiter(found.values(), np.float32, len(found)))) * weight_W[words]
    length = np.sqrt(weights @ weights)
    return words, weights / length if length > 0 else weights


def _word_matrix(texts: Sequence[str], numbers: Mapping[str, int], weight_W: NDArray[np.float32]) -> "sp.csr_matrix":
    """The weights of each text's words, ``[T, W]``."""
    import scipy.sparse as sp  # as the solver: only who learns from texts waits for it

    rows = [_weighted_words(text, numbers, weight_W) for text in texts]
    indptr = np.cumsum([0, *(len(words) for words, _ in rows)])
    columns = np.concatenate([np.empty(0, np.int64), *(words for words, _ in rows)]).astype(np.int32)
    values = np.concatenate([np.empty(0, np.float32), *(weights for _, weights in rows)])
    return sp.csr_matrix((values, columns, indptr), (len(texts), len(numbers)))


def _singular_directions(matrix_TW: "sp.csr_matrix", dimensions: int) -> NDArray[np.float32]:
    """``[W, D]``, largest first; no columns where there are no words or none are wanted."""
    if dimensions < 1 or not matrix_TW.shape[1]:
        return np.empty((matrix_TW.shape[1], 0), np.float32)
    from lanner.models.svd import right_singular

    return np.ascontiguousarray(right_singular(matrix_TW, dimensions)[1], np.float32)
