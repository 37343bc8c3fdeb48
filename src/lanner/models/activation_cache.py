"""Activations of a language model at one layer, on disk and memory-mapped: one row per token of each text.

One file per model, layer and list of texts, which its name identifies. The cache only saves time: what does not fit
is recomputed.
"""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ActivationCache:
    """Activations ``[Σ L_t, D]`` of T texts of L_t tokens each."""

    def __init__(self, path: Path, lengths_T: NDArray[np.integer], dimensions: int, dtype: torch.dtype) -> None:
        self.path = path
        self._dimensions, self._dtype = dimensions, dtype
        self._first_T = np.concatenate([[0], np.cumsum(lengths_T)])

    @property
    def num_bytes(self) -> int:
        """Size of the file."""
        return int(self._first_T[-1]) * self._dimensions * self._dtype.itemsize

    def fill(self, batches: Iterable[tuple[NDArray[np.int64], Tensor]], limit: int) -> bool:
        """Write the file if it does not exist; evict the folder's older files until all take at most ``limit`` bytes.

        batches: texts and their activations ``[B, L, D]``, padded on the right; read only if the file is written.

        Returns whether it exists: not if it needs more than ``limit`` bytes, or (with a warning) the write fails.
        """
        if self.path.is_file() and self.path.stat().st_size == self.num_bytes:
            os.utime(self.path)
            self._open()
            return True
        if self.num_bytes > limit:
            return False
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _make_room(self.path.parent, limit - self.num_bytes)
            self._write(draft, batches)
            draft.replace(self.path)
        except OSError as refusal:
            warnings.warn(f"{self.path}: cannot be written ({refusal}); activations are not cached", stacklevel=2)
            return False
        finally:
            draft.unlink(missing_ok=True)
        self._open()
        return True

    def rows(self, texts: NDArray[np.int64]) -> Tensor:
        """Activations of some texts, ``[B, L, D]``, zero-padded on the right."""
        parts = [self._values[self._first_T[text] : self._first_T[text + 1]] for text in texts]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)

    def _write(self, draft: Path, batches: Iterable[tuple[NDArray[np.int64], Tensor]]) -> None:
        row_bytes = self._dimensions * self._dtype.itemsize
        with draft.open("wb") as file:
            file.truncate(self.num_bytes)
            for texts, hidden_BLD in batches:
                for text, hidden_LD in zip(texts, hidden_BLD.to("cpu", self._dtype), strict=True):
                    first, last = int(self._first_T[text]), int(self._first_T[text + 1])
                    file.seek(first * row_bytes)
                    file.write(hidden_LD[: last - first].contiguous().view(torch.uint8).numpy().tobytes())

    def _open(self) -> None:
        size = int(self._first_T[-1]) * self._dimensions
        flat = torch.from_file(str(self.path), shared=False, size=size, dtype=self._dtype)
        self._values = flat.view(-1, self._dimensions)


def _make_room(folder: Path, limit: int) -> None:
    """Remove the oldest files until the others take at most ``limit`` bytes."""
    files = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total <= limit:
            return
        total -= file.stat().st_size
        file.unlink(missing_ok=True)
