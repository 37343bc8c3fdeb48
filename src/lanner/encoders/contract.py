"""What every runtime must do with an encoder of texts: tokens in, vectors out; and what they share."""

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
"""Texts whose features are kept, about 2.5 KiB each; beyond, all are read anew."""
_TOKENS_AT_ONCE = 8192
"""Padded tokens in one call of a runtime: what its activations may hold, whatever is asked."""
_CHARACTERS_A_TOKEN = 64
"""No word of that length becomes a single token."""


class _Closed:
    """Stands where a runtime was; whatever is asked of it, the answer is one clear line."""

    def __call__(self, *inputs: Any) -> Any:
        raise LannerError("the text encoder was closed")

    def __getattr__(self, asked: str) -> Any:
        raise LannerError("the text encoder was closed")


class TextReader(ABC):
    """The encoder of one variant in one runtime. Any number of threads may read texts with it.

    Threads of the process's BLAS are the caller's to limit; those of the runtime are set here.
    """

    backend: ClassVar[str]

    def __init__(self, variant: Variant, texts: TextFiles, threads: int = 1) -> None:
        """Raises MissingExtraError without the runtime, ConfigError where the variant lacks what it reads."""
        if "encoder_shape" not in variant.figures:
            raise ConfigError(f"the variant '{variant.name}' has no encoder of texts")
        self.variant, self.texts, self.threads = variant, texts, threads
        self._known: dict[str, NDArray[np.float32]] = {}
        self._open()
        self._encoder: Any = self._load_encoder()

    @property
    def width(self) -> int:
        """F, the length of a text's features."""
        return self.texts.features.width

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts, float32 ``[T, F]``. The last ones are kept, for queries and profiles recur."""
        # What is found stays found, though another thread may clear what is kept meanwhile.
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
        """Features of texts ``[T, F]`` that are read this once, as those of new items; nothing of them is kept."""
        return self.texts.features.transform(texts, self.encode)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector of length 1 a text, float32 ``[T, E]``; zeros for a text without a token."""
        vectors = np.zeros((len(texts), int(self.variant.figures["encoder_shape"]["hidden"])), np.float32)
        ids = self._token_ids(texts)
        for rows in batches_of_tokens(np.array([len(one) for one in ids], np.int64), _TOKENS_AT_ONCE):
            mask_BL = np.arange(len(ids[rows[0]])) < np.array([[len(ids[row])] for row in rows])
            ids_BL = np.zeros(mask_BL.shape, np.int64)
            ids_BL[mask_BL] = np.concatenate([ids[row] for row in rows])
            vectors[rows] = self._encode(ids_BL, mask_BL.astype(np.int64))
        return vectors

    def warm_up(self) -> None:
        """Read a text, so that the first caller waits no longer than the others."""
        self.encode(["a first text"])

    def close(self) -> None:
        """Let go of the runtime's memory; no text is read any more."""
        self._encoder = _Closed()

    @abstractmethod
    def _open(self) -> None:
        """Import the runtime and see that it can run here."""

    @abstractmethod
    def _load_encoder(self) -> Any: ...

    @abstractmethod
    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors ``[T, E]``; mask_TL: 1 for a token, 0 for padding."""

    @cached_property
    def _tokenizer(self) -> Any:
        library = optional_module("tokenizers", "tokenizers", "language", "reading texts")
        tokenizer = library.Tokenizer.from_str(self.texts.tokenizer)
        tokenizer.enable_truncation(self.texts.max_tokens)
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def _new_id(self) -> NDArray[np.int64] | None:
        """Where the encoder knows fewer tokens than the tokenizer: its own id of each."""
        stored = self.variant.files.get("encoder.vocabulary.safetensors")
        return None if stored is None else load(stored)["new_id"].astype(np.int64)

    def _token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each text in the encoder's own vocabulary; a blank text has none."""
        # The end of a very long text is cut before the tokenizer sees it, for it would read all of it.
        longest = self.texts.max_tokens * _CHARACTERS_A_TOKEN
        encoded = self._tokenizer.encode_batch_fast([text[:longest] for text in texts])
        ids = [np.array(one.ids if text.strip() else [], np.int64) for text, one in zip(texts, encoded, strict=True)]
        return ids if self._new_id is None else [self._new_id[one] for one in ids]
