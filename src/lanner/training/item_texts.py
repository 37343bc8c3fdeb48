"""Item texts as inputs of a language model in training, and what is computed from their vectors."""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lanner.models.activation_cache import ActivationCache
from lanner.models.batches_of_texts import batches_of_tokens, pad_right
from lanner.models.language import LanguageEncoder
from lanner.models.text_cache import cache_directory, text_key
from lanner.models.text_features import TextFeatures, fields_of
from lanner.models.text_tower import TextTower

_CHECKED = 8
"""Texts used to check that a tower without its frozen layers gives the same vectors."""


class ItemTexts:
    """The fields of item texts as token ids, deduplicated.

    place_IS: int64 ``[I, S]``, index of each item's field among the distinct ones; −1 for a field without tokens.
    """

    def __init__(self, texts: Sequence[str], num_fields: int, language: LanguageEncoder) -> None:
        fields = [field for text in texts for field in fields_of(text, num_fields)]
        distinct = [field for field in dict.fromkeys(fields) if field.strip()]
        tokens = language.token_ids(distinct)
        kept = [place for place, ids in enumerate(tokens) if len(ids)]
        self.distinct, self.tokens = [distinct[place] for place in kept], [tokens[place] for place in kept]
        places = {field: place for place, field in enumerate(self.distinct)}
        self.place_IS = np.array([places.get(field, -1) for field in fields]).reshape(len(texts), num_fields)
        self.lengths = np.array([len(ids) for ids in self.tokens], np.int64)

    @property
    def tokens_I(self) -> NDArray[np.int64]:
        """Number of tokens of each item."""
        return np.asarray(np.append(self.lengths, 0)[self.place_IS].sum(axis=1))  # place −1: the 0 at the end


class TrainedVectors:
    """Vectors of the distinct texts from a tower, with gradient if enabled.

    If the tower has frozen lower layers, their output activations are computed once and cached on disk, provided that
    all of them fit in ``cache_bytes``.
    """

    def __init__(self, tower: TextTower, texts: ItemTexts, language: LanguageEncoder, cache_bytes: int = 0) -> None:
        self.tower, self.texts = tower, texts
        self._language, self._cache_bytes = language, cache_bytes

    @property
    def sent(self) -> int:
        """Bytes of gradients, or of averaged weights, that this process has sent to other replicas."""
        return 0

    def fetch(self) -> Any:
        """Copy the trained weights into the tower, if they are held elsewhere."""

    def of(self, places: NDArray[np.int64]) -> Tensor:
        """Vectors of some texts, float32 ``[T, E]``."""
        batches = list(self._batches(places))
        vectors = torch.cat([self._encoded(places[rows]) for rows in batches])
        return vectors[torch.from_numpy(np.argsort(np.concatenate(batches)))]

    def of_items(self, items: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Vectors of the distinct fields of ``items``, ``[T, E]``; each item's rows in them ``[N, S]``, −1 for none."""
        places, inverse = np.unique(self.texts.place_IS[items], return_inverse=True)
        blank = int(places[0] < 0)  # −1 sorts first, if present
        return self.of(places[blank:]), inverse.reshape(len(items), -1) - blank

    @cached_property
    def _cache(self) -> ActivationCache | None:
        """Loaded or filled on first use; None if nothing is cached."""
        if not self.tower.first_layer or not self._cache_bytes:
            return None
        sample = self._padded(np.argsort(self.texts.lengths, kind="stable")[:_CHECKED])
        dtype = torch.bfloat16 if self.tower.in_bfloat16 else torch.float32
        folder = cache_directory(self._language.config.cache_dir) / "activations"
        sizes = (self.texts.lengths, self.tower.below(*sample).shape[2], dtype)
        cache = ActivationCache(folder / self._key(dtype), *sizes)
        everything = self._batches(np.arange(len(self.texts.lengths)))
        if not cache.fill(((rows, self.tower.below(*self._padded(rows))) for rows in everything), self._cache_bytes):
            return None
        self.tower.cut(*sample)
        return cache

    def _encoded(self, places: NDArray[np.int64]) -> Tensor:
        hidden = None if self._cache is None else self._cache.rows(places).to(self._language.device)
        vectors: Tensor = self.tower(*self._padded(places), hidden)
        return vectors

    def _padded(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        ids_BL, mask_BL = pad_right([self.texts.tokens[place] for place in places], self._language.pad_id)
        return ids_BL.to(self._language.device), mask_BL.to(self._language.device)

    def _batches(self, places: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Rows of ``places``, batched by similar length."""
        return batches_of_tokens(self.texts.lengths[places], self._language.tokens_per_batch)

    def _key(self, dtype: torch.dtype) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self._language.fingerprint, self.tower.first_layer, str(dtype))).encode())
        for text in self.texts.distinct:
            digest.update(text_key(text))
        return digest.hexdigest()


class ItemFeatures(nn.Module):
    """``TextFeatures`` of items as a torch function of their texts' vectors; word features are constant.

    words_IW: the word block of each item's features, rows of unit length or zero.
    """

    def __init__(self, features: TextFeatures, words_IW: NDArray[np.float32]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(features.mean_SE))
        self.register_buffer("meaning", torch.from_numpy(features.meaning_SED.astype(np.float32)))
        self.register_buffer("words", torch.from_numpy(np.ascontiguousarray(words_IW)))

    def forward(self, rows: NDArray[np.int64], place_NS: NDArray[np.int64], vectors_TE: Tensor) -> Tensor:
        """Features ``[N, F]`` of items ``rows``. place_NS: row of each field in ``vectors_TE``, −1 for none."""
        place = torch.from_numpy(place_NS).to(vectors_TE.device)
        centred_NSE = (vectors_TE[place] - self.get_buffer("mean")) * (place >= 0)[:, :, None]
        meaning_ND = torch.einsum("nse,sed->nd", centred_NSE, self.get_buffer("meaning"))
        words_NW = self.get_buffer("words")[torch.from_numpy(rows).to(vectors_TE.device)]
        return torch.cat([nn.functional.normalize(meaning_ND, dim=1, eps=1e-8), words_NW], dim=1)


class ItemVectors(nn.Module):
    """The vector of an item: the unit-length sum of its fields' vectors, each minus the average of its field.

    known: the most recent vectors of all items, ``[I, E]``. mean: ``[S, E]``, the averages.
    """

    def __init__(self, num_items: int, num_fields: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("known", torch.zeros(num_items, dimensions))
        self.register_buffer("mean", torch.zeros(num_fields, dimensions))

    def find_averages(self, place_NS: NDArray[np.int64], vectors_TE: Tensor) -> None:
        """Set the averages to those of some items. place_NS, vectors_TE: see ``forward``."""
        mean_SE = self.get_buffer("mean")
        for field, place_N in enumerate(place_NS.T):
            if (place_N >= 0).any():
                mean_SE[field] = vectors_TE[torch.from_numpy(place_N[place_N >= 0]).to(mean_SE.device)].mean(0)

    def forward(self, place_NS: NDArray[np.int64], vectors_TE: Tensor) -> Tensor:
        """``[N, E]``; zero for an item without a text. place_NS: row of each field in ``vectors_TE``, −1 for none."""
        place = torch.from_numpy(place_NS).to(vectors_TE.device)
        centred_NSE = (vectors_TE[place] - self.get_buffer("mean")) * (place >= 0)[:, :, None]
        return nn.functional.normalize(centred_NSE.sum(1), dim=1, eps=1e-8)
