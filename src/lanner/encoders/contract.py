"""The interface of text encoder runtimes, and what they share: caching, tokenisation, batching."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from lanner.artifacts.variants import TextFiles, Variant
from lanner.errors import ConfigError, LannerError, optional_module
from lanner.models.batches_of_texts import batches_of_tokens

_TEXTS_KEPT = 2_000
"""Size of the feature cache, about 2.5 KiB per text; when it is full, it is cleared."""
_TOKENS_AT_ONCE = 8192
"""Maximum number of padded tokens per runtime call; bounds the memory of activations."""
_CHARACTERS_A_TOKEN = 64
"""Maximum length of a word that can be a single token."""


class _Closed:
    """Replaces a closed runtime; every use raises a clear error."""

    def __call__(self, *inputs: Any) -> Any:
        raise LannerError("the text encoder was closed")

    def __getattr__(self, asked: str) -> Any:
        raise LannerError("the text encoder was closed")


class TextReader(ABC):
    """The text encoder of one variant in one runtime. Thread-safe.

    It sets the threads of the runtime; the BLAS threads of the process are the caller's.
    """

    backend: ClassVar[str]

    def __init__(self, variant: Variant, texts: TextFiles, threads: int = 1) -> None:
        """Raises MissingExtraError without the runtime, ConfigError if the variant lacks the required files."""
        if "encoder_shape" not in variant.figures:
            raise ConfigError(f"the variant '{variant.name}' has no text encoder")
        self.variant, self.texts, self.threads = variant, texts, threads
        self._known: dict[str, NDArray[np.float32]] = {}
        self._open()
        self._encoder: Any = self._load_encoder()

    @property
    def width(self) -> int:
        """F, the dimension of the text features."""
        return self.texts.features.width

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts, float32 ``[T, F]``, cached because queries and profiles recur."""
        # The result does not depend on the cache, which another thread may clear.
        found = {text: self._known.get(text) for text in texts}
        new = [text for text, row in found.items() if row is None]
        if new:
            read = dict(zip(new, self.read(new), strict=True))
            if len(self._known) + len(new) > _TEXTS_KEPT:
                self._known.clear()
            self._known.update(read)
            found.update(read)
        rows = np.empty((len(texts), self.width), np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = found[text]
        return rows

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts ``[T, F]`` without caching, for texts used once, such as new items."""
        return self.texts.features.transform(texts, self.encode)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit-length vector per text, float32 ``[T, E]``; zeros for a text without tokens."""
        vectors = np.zeros((len(texts), int(self.variant.figures["encoder_shape"]["hidden"])), np.float32)
        ids = self._token_ids(texts)
        for rows in batches_of_tokens(np.array([len(one) for one in ids], np.int64), _TOKENS_AT_ONCE):
            mask_BL = np.arange(len(ids[rows[0]])) < np.array([[len(ids[row])] for row in rows])
            ids_BL = np.zeros(mask_BL.shape, np.int64)
            ids_BL[mask_BL] = np.concatenate([ids[row] for row in rows])
            vectors[rows] = self._encode(ids_BL, mask_BL.astype(np.int64))
        return vectors

    def warm_up(self) -> None:
        """Encode a text, so that the first request is not slower than the others."""
        self.encode(["a first text"])

    def close(self) -> None:
        """Release the runtime's memory; later calls raise."""
        self._encoder = _Closed()

    @abstractmethod
    def _open(self) -> None:
        """Import the runtime and check that it works on this machine."""

    @abstractmethod
    def _load_encoder(self) -> Any: ...

    @abstractmethod
    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors ``[T, E]``. mask_TL: 1 for tokens, 0 for padding."""

    @cached_property
    def _tokenizer(self) -> Any:
        library = optional_module("tokenizers", "tokenizers", "language", "encoding texts")
        tokenizer = library.Tokenizer.from_str(self.texts.tokenizer)
        tokenizer.enable_truncation(self.texts.max_tokens)
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _new_id(self) -> NDArray[np.int64] | None:
        """The encoder's id of each of the tokenizer's tokens, if its vocabulary was trimmed; else None."""
        stored = self.variant.files.get("encoder.vocabulary.safetensors")
        return None if stored is None else load(stored)["new_id"].astype(np.int64)

    def _token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each text in the encoder's vocabulary; empty for a blank text."""
        # A very long text is truncated first: the tokenizer would process all of it.
        longest = self.texts.max_tokens * _CHARACTERS_A_TOKEN
        encoded = self._tokenizer.encode_batch_fast([text[:longest] for text in texts])
        ids = [np.array(one.ids if text.strip() else [], np.int64) for text, one in zip(texts, encoded, strict=True)]
        return ids if self._new_id is None else [self._new_id[one] for one in ids]
