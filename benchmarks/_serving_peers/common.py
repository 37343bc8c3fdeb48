"""What every peer wraps: the same FAISS index at the same effort, the same ranking head and text encoder.

Imported where Lanner is not installed: NumPy, FAISS, ONNX Runtime, tokenizers and msgspec are all it needs.

Favours that peers are done, for their frameworks offer none of it: events are acknowledged but not stored, the text of
a new item is encoded but the item never becomes recommendable, and answers carry neither titles nor timings.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

FOLDER = "SERVING_PEER_FOLDER"
"""The variable that names the folder ``_serving_work`` wrote; workers of every framework inherit it."""
_EPSILON = 1e-5

_encoder, _decoder = msgspec.json.Encoder(), msgspec.json.Decoder()


def encode_json(answer: Any) -> bytes:
    """A function, for Ray sends what a deployment names to its replicas, and msgspec's own cannot be pickled."""
    return _encoder.encode(answer)


def decode_json(body: bytes) -> Any:
    """As ``encode_json``."""
    return _decoder.decode(body)


class Retrieval:
    """Candidates of a history by inner product; one thread, for the workers already fill the cores."""

    def __init__(self, folder: Path) -> None:
        faiss.omp_set_num_threads(1)
        facts = json.loads((folder / "facts.json").read_text())
        self.count: int = facts["candidates"]
        self._source_ID = np.load(folder / "source.npy", mmap_mode="r")
        self._index, self._settings, *self._kept = _FAISS[facts["kind"]](folder, facts)

    def user(self, history: list[str]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows of the history, and the mean of its vectors, float32 ``[D]``."""
        rows = np.array(history, np.int64)
        return rows, self._source_ID[rows].mean(axis=0)

    def search(self, user_D: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores ``[C]``, best first."""
        query = np.zeros((1, self._index.d), np.float32)
        query[0, : len(user_D)], query[0, len(user_D)] = user_D, 1
        scores, rows = self._index.search(query, self.count, params=self._settings)
        return rows[0], scores[0]


def _flat(folder: Path, facts: dict[str, Any]) -> tuple[Any, ...]:
    """Small catalogues are scanned. Both of these return an index, its settings, and what both only point to."""
    targets = np.load(folder / "target.npy")
    index = faiss.IndexFlatIP(targets.shape[1])
    index.add(targets)
    return index, None


def _cells(folder: Path, facts: dict[str, Any]) -> tuple[Any, ...]:
    """Product codes choose, float16 vectors re-score: the index file, and its effort, are Lanner's own."""
    index = faiss.read_index(str(folder / "index.faiss"))
    faiss.downcast_index(index.base_index).implem = 11  # as Lanner sets it; the file does not keep it
    cells = faiss.IVFSearchParameters(nprobe=facts["nprobe"])
    settings = faiss.IndexRefineSearchParameters(k_factor=facts["k_factor"], base_index_params=cells)
    return index, settings, cells


_FAISS = {"exact": _flat, "ivf-pq": _cells}


class Recommender:
    """The whole request of a peer."""

    def __init__(self, folder: Path) -> None:
        self.retrieval = Retrieval(folder)
        facts = json.loads((folder / "facts.json").read_text())
        self._half_IH = np.load(folder / "half.npy", mmap_mode="r")
        self._user_DH, self._out_H = np.load(folder / "user.npy"), np.load(folder / "out.npy")
        self._popular = np.load(folder / "popular.npy")
        self._bounds = np.cumsum(facts["views"])[:-1]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._encoder = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), options, ["CPUExecutionProvider"])
        self._tokeniser = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokeniser.enable_truncation(facts["max_tokens"])
        self._tokeniser.no_padding()

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Any of the three requests, told apart by its fields: for frameworks with one address."""
        if "history" in body:
            return self.recommend(body["history"], body["k"])
        return self.store(body["events"]) if "events" in body else self.put_item(body["text"])

    def recommend(self, history: list[str], k: int) -> dict[str, Any]:
        """The k best items that are not in the history."""
        met, user_D = self.retrieval.user(history)
        rows, scores = self.retrieval.search(user_D)
        hidden_H = self._normalised(user_D) @ self._user_DH
        total = scores + np.maximum(self._half_IH[rows] + hidden_H, 0) @ self._out_H
        # A list of what is left is quicker than a mask over all: nothing here is long.
        order = np.argsort(-total, kind="stable")[: k + len(met)]
        seen = set(met.tolist())
        named = zip(rows[order].tolist(), total[order].tolist(), strict=True)
        kept = [{"item_id": str(row), "score": score} for row, score in named if row not in seen]
        return {"items": kept[:k]}

    def popular(self, history: list[str], k: int) -> dict[str, Any]:
        """The k most popular items that are not in the history."""
        seen = set(history)
        named = (str(row) for row in self._popular[: k + len(history)].tolist())
        kept = [{"item_id": name, "score": 0.0} for name in named if name not in seen]
        return {"items": kept[:k], "served": {"variant": "popularity"}}

    def store(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """Nothing is stored."""
        return {"accepted": len(events), "duplicates": 0}

    def put_item(self, text: str) -> dict[str, Any]:
        """The text is read, and the vector dropped."""
        ids = np.array([self._tokeniser.encode(text).ids], np.int64)
        vector = self._encoder.run(["vectors"], {"ids": ids, "mask": np.ones_like(ids)})[0]
        return {"dimensions": vector.shape[1]}

    def _normalised(self, user_D: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [part - part.mean() for part in np.split(user_D, self._bounds)]
        return np.concatenate([part / np.sqrt((part**2).mean() + _EPSILON) for part in parts])


@cache
def recommender() -> Recommender:
    """One for each process."""
    return Recommender(Path(os.environ[FOLDER]))
