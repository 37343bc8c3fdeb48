"""What every runtime must do with a rung of the ladder, and what they share: tokens in, histories in."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load
from threadpoolctl import threadpool_limits

from lanner.artifacts.ladder import Rung, TextReader
from lanner.data.interactions import UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError, MissingExtraError
from lanner.models.batches_of_texts import batches_of_tokens

_PROFILES_KEPT = 2_000
"""Texts whose features are kept, about 2.5 KiB each; beyond, all are read anew."""
_TOKENS_AT_ONCE = 8192
"""Padded tokens in one call of a runtime: what its activations may hold, whatever is asked."""
_CHARACTERS_A_TOKEN = 64
"""No word of that length becomes a single token."""


class _OneBlasThread:
    """NumPy's products of a request are small: its own threads would only get in the way of the runtimes'.

    The setting is the whole process's, so open backends are counted: the last one closed gives the threads back.
    """

    def __init__(self) -> None:
        self._lock, self._open = Lock(), 0
        self._limits: threadpool_limits | None = None

    def enter(self) -> None:
        with self._lock:
            if not self._open:
                self._limits = threadpool_limits(limits=1, user_api="blas")
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open and self._limits is not None:
                self._limits.restore_original_limits()


_ONE_BLAS_THREAD = _OneBlasThread()


class _Closed:
    """Stands where a runtime was; whatever is asked of it, the answer is one clear line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, asked: str) -> Any:
        raise ConfigError(f"the backend '{self._name}' was closed; open it again")

    def __call__(self, *inputs: Any) -> Any:
        raise ConfigError(f"the backend '{self._name}' was closed; open it again")


class Backend(ABC):
    """One rung in one runtime. Threads are set here and nowhere else, NumPy's to one while the backend is open.

    ``close`` gives everything back.
    """

    name: ClassVar[str]

    def __init__(
        self, rung: Rung, reader: TextReader | None = None, threads: int = 1, like: "Backend | None" = None
    ) -> None:
        """Load the encoder where ``reader`` is given and the rung has one; the network is loaded when it first scores.

        like: an open backend of the same runtime and the same encoder, which is used here, too, and is let go of once
        all that use it are closed.

        Raises:
            MissingExtraError: the runtime is not installed. ConfigError: the rung lacks what this runtime reads.
        """
        self.rung, self.reader, self.threads = rung, reader, threads
        self._profiles: dict[str, NDArray[np.float32]] = {}
        self._is_open = False
        self._open()
        self._encoder: Any = None
        if self.reads_texts:
            self._encoder = self._load_encoder() if like is None else like._encoder
        self._is_open = True
        _ONE_BLAS_THREAD.enter()

    @property
    def reads_texts(self) -> bool:
        """Whether ``encode`` may be asked."""
        return self.reader is not None and "encoder_shape" in self.rung.figures

    @cached_property
    def _network(self) -> Any:
        """A service that retrieves from an index never asks for it, and its tables are as large as the catalogue."""
        return self._load_network()

    def score(self, users: UserBatch) -> NDArray[np.float32]:
        """Scores of every item for each user, float32 ``[B, I]``: a scorer for the one yardstick, too."""
        return self.score_vectors(self.users(users))

    def users(self, users: UserBatch) -> NDArray[np.float32]:
        """One vector a user, float32 ``[B, D]``, from the history and, where profiles are read, the profile."""
        features = None
        if users.profiles is not None and self.rung.form.profile_FD is not None and self.reader is not None:
            features = self.features(users.profiles)
        return self.rung.form.users(users, features)

    @abstractmethod
    def score_vectors(self, users_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores of every item for users by their vectors, float32 ``[B, I]``."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector of length 1 a text, float32 ``[T, E]``; zeros for a text without a token.

        Raises:
            ConfigError: this rung reads no texts.
        """
        width = self.rung.figures.get("encoder_shape", {}).get("hidden")
        if self.reader is None or width is None:
            raise ConfigError(f"the variant '{self.rung.name}' reads no texts; choose another")
        vectors = np.zeros((len(texts), int(width)), np.float32)
        self._encode_tokens(self._token_ids(texts), vectors)
        return vectors

    def warm_up(self) -> None:
        """Ask one request of each kind, so that the first caller waits no longer than the others."""
        self.score(UserBatch(Ragged.from_lists([[0]])))
        if self.reads_texts:
            self.encode(["a first text"])

    def close(self) -> None:
        """Let go of the runtime's memory; the backend answers no more. A second time does nothing."""
        if self._is_open:
            self._is_open = False
            self.__dict__["_network"] = self._encoder = _Closed(self.name)
            _ONE_BLAS_THREAD.leave()

    @abstractmethod
    def _open(self) -> None:
        """Import the runtime and see that it can run here."""

    @abstractmethod
    def _load_network(self) -> Any: ...

    @abstractmethod
    def _load_encoder(self) -> Any: ...

    @abstractmethod
    def _encode_tokens(self, ids: Sequence[NDArray[np.int64]], vectors_TE: NDArray[np.float32]) -> None:
        """Write the vector of each text, given by its tokens; a text without any keeps its zeros."""

    def features(self, profiles: Sequence[str]) -> NDArray[np.float32]:
        """Features of profiles ``[B, F]``. Few different ones are met again and again, so the last ones are kept."""
        # What is found stays found, though another thread may clear what is kept meanwhile.
        found = {text: self._profiles.get(text) for text in profiles}
        new = [text for text, row in found.items() if row is None]
        if new:
            read = dict(zip(new, self.read(new), strict=True))
            if len(self._profiles) + len(new) > _PROFILES_KEPT:
                self._profiles.clear()
            self._profiles.update(read)
            found.update(read)
        assert self.reader is not None
        rows = np.empty((len(profiles), self.reader.features.width), np.float32)
        for row, text in zip(rows, profiles, strict=True):
            row[:] = found[text]
        return rows

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Features of texts ``[T, F]`` that are read this once, as a new item's is; nothing of them is kept."""
        assert self.reader is not None
        return self.reader.features.transform(texts, self.encode)

    @cached_property
    def _tokeniser(self) -> Any:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingExtraError("tokenizers", "language", "encode()") from None
        assert self.reader is not None
        tokeniser = Tokenizer.from_str(self.reader.tokeniser)
        tokeniser.enable_truncation(self.reader.max_tokens)
        tokeniser.no_padding()
        return tokeniser

    @cached_property
    def _new_id(self) -> NDArray[np.int64] | None:
        """Where the encoder knows fewer tokens than the tokeniser: its own id of each."""
        stored = self.rung.files.get("encoder.vocabulary.safetensors")
        return None if stored is None else load(stored)["new_id"].astype(np.int64)

    def _token_ids(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Ids of each text in the encoder's own vocabulary; a blank text has none."""
        # The end of a very long text is cut before the tokeniser sees it, for it would read all of it.
        assert self.reader is not None
        longest = self.reader.max_tokens * _CHARACTERS_A_TOKEN
        encoded = self._tokeniser.encode_batch_fast([text[:longest] for text in texts])
        ids = [np.array(one.ids if text.strip() else [], np.int64) for text, one in zip(texts, encoded, strict=True)]
        return ids if self._new_id is None else [self._new_id[one] for one in ids]


class PaddedBackend(Backend):
    """A runtime that reads a batch of texts as a matrix of tokens: texts of like lengths go together."""

    def _encode_tokens(self, ids: Sequence[NDArray[np.int64]], vectors_TE: NDArray[np.float32]) -> None:
        for rows in batches_of_tokens(np.array([len(one) for one in ids], np.int64), _TOKENS_AT_ONCE):
            mask_BL = np.arange(len(ids[rows[0]])) < np.array([[len(ids[row])] for row in rows])
            ids_BL = np.zeros(mask_BL.shape, np.int64)
            ids_BL[mask_BL] = np.concatenate([ids[row] for row in rows])
            vectors_TE[rows] = self._encode(ids_BL, mask_BL.astype(np.int64))

    @abstractmethod
    def _encode(self, ids_TL: NDArray[np.int64], mask_TL: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors ``[T, E]``; mask_TL: 1 for a token, 0 for padding."""
