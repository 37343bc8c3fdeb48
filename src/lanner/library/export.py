"""Export to files: recommendations for all users, and embeddings.

An interrupted export of recommendations resumes: finished blocks of users are kept in ``<output>.partial/`` next to the
output, which is written from them atomically at the end.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray
from polars.io.plugins import register_io_source
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lanner.data.ids import IdMap, id_text
from lanner.data.interactions import Dataset, UserBatch
from lanner.data.ragged import Ragged
from lanner.errors import ConfigError, Interrupted, RequestError, ServerError, StorageError, optional_module
from lanner.files import FolderKind, write_file, write_folder
from lanner.inference.bulk import BulkRanker, BulkRanking
from lanner.inference.eligibility import RowMask
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import take
from lanner.library.requests import Filters, allowed, checked_k, ids_of, path_of

if TYPE_CHECKING:
    from lanner.library.estimator import Model

SCHEMA = 1
"""Of the working folder; raised whenever older blocks would be misread."""
MOST_USERS, LEAST_USERS, SCORES_AT_ONCE = 8192, 256, 1 << 30
"""Users of a block: as many as give so many scores, within bounds. What is lost when an export is stopped is less."""
_POINTS_AT_ONCE = 1000
EmbeddingFormat = Literal["parquet", "npy", "faiss"]
FACTS = "embeddings.json"
_VECTORS = ("users.parquet", "items.parquet", "users.npy", "user_ids.npy", "items.npy", "item_ids.npy", "items.faiss")
_FOLDER = FolderKind(
    "an export of embeddings", FACTS, lambda content: (FACTS, *_VECTORS) if "left_out" in content else ()
)
Progress = Callable[[int, int], None]
"""Told the number of users done, and of all users."""
WRITERS: dict[str, Callable[[pl.LazyFrame, Path], Any]] = {
    ".parquet": lambda frame, path: frame.sink_parquet(path),
    ".csv": lambda frame, path: frame.sink_csv(path, check_extension=False),
    ".jsonl": lambda frame, path: frame.sink_ndjson(path, check_extension=False),
}
"""Formats of recommendations by suffix."""


@dataclass(frozen=True)
class RecommendationsExport:
    """Result. popular: users without data that the model uses; they got popular items.

    unknown: those of them not in the dataset. resumed: users kept from an interrupted export. restarted: whether blocks
    of an export with another model, users or settings were discarded.
    """

    path: Path
    users: int
    rows: int
    popular: int
    unknown: int
    resumed: int
    restarted: bool


@dataclass(frozen=True)
class EmbeddingsExport:
    """Result. path: None for Qdrant, where files are collections. dimensions: including the bias.

    left_out: parts of the model's score that the inner product of a user and an item does not include.
    """

    path: Path | None
    files: tuple[str, ...]
    users: int
    items: int
    dimensions: int
    has_bias: bool
    left_out: tuple[str, ...]


def export_recommendations(
    model: "Model",
    path: Path | str,
    *,
    k: int = 100,
    users: Any = None,
    exclude_seen: bool = True,
    filters: Filters | None = None,
    progress: Progress | None = None,
) -> RecommendationsExport:
    """Write the k best items of every user, one row each: user_id, item_id, rank (from 1), score (higher is better).

    Every item is scored, in blocks of users, so that memory stays bounded. Ids have the dataset's type. An interrupted
    export resumes when called again with the same model, users and settings.

    Args:
        model: fitted or loaded.
        path: the file: ``.parquet``, ``.csv`` or ``.jsonl``; an existing one is replaced.
        k: items per user; fewer if fewer are left.
        users: ids: a list, an array or a column of a frame; repeated ids count once. None: all users of the dataset.
        exclude_seen: leave out items that the user has interacted with.
        filters: attribute → values; an item needs at least one of the values of each attribute.
        progress: called after each newly computed block.

    Raises:
        ConfigError: not fitted. RequestError: k below 1, an unknown attribute, or a name with another suffix.
        Interrupted: Ctrl-C. StorageError: writing failed. In these two cases finished blocks are kept.
    """
    _check_fitted(model)
    path = _checked(path_of(path, "export_recommendations").absolute())
    request = _Request.of(model, k, users, filters, exclude_seen=exclude_seen)
    done = resumed = popular = written = 0
    try:
        finished = _Blocks.open(path, request.digest())
        for place, rows in enumerate(request.blocks):
            ranking = finished.read(place)
            if ranking is not None:
                resumed += len(rows)
            else:
                ranking = request.rank(rows)
                finished.write(place, ranking)
                if progress:
                    progress(done + len(rows), len(request))
            done += len(rows)
            popular += int(ranking.fallback.sum())
            written += int((ranking.items >= 0).sum())
        draft = finished.folder / f"output{path.suffix}"
        WRITERS[path.suffix](request.frame(finished), draft)
        draft.replace(path)
        finished.remove()
    except KeyboardInterrupt:
        state = f"{done:,} of {len(request):,} users are finished"
        raise Interrupted(f"{path.name}: stopped; {state}; the same export resumes from there") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"{path}: cannot be written ({reason}); finished blocks are kept") from error
    return RecommendationsExport(path, len(request), written, popular, request.unknown, resumed, finished.restarted)


def export_embeddings(model: "Model", folder: Path | str, *, format: EmbeddingFormat = "parquet") -> EmbeddingsExport:
    """Write the vectors of all users and items with their ids.

    The inner product of a user and an item vector is the model's score, except for the parts in ``left_out``: weights
    between single items (``item_to_item``) and the ranking head (``head``). Item biases, if any, are the last dimension
    of the item vectors, which is 1 in the user vectors. User vectors are computed from histories.

    Files: ``users`` and ``items`` as ``.parquet`` (user_id or item_id, and vector), or as ``.npy`` (float32, one
    row each) with ``user_ids.npy`` and ``item_ids.npy``; ``faiss``: the same with the items in ``items.faiss``, a flat
    inner-product index in the order of ``item_ids.npy``. ``embeddings.json`` describes them.

    Args:
        model: fitted or loaded.
        folder: output folder; an older export is replaced.
        format: parquet, npy or faiss.

    Raises:
        ConfigError: not fitted, a model without vectors, or an unknown format. StorageError: writing failed, or
        the folder holds something else. MissingExtraError: faiss is not installed.
    """
    if format not in get_args(EmbeddingFormat):
        raise ConfigError(f"unknown format '{format}'; choose one of {', '.join(get_args(EmbeddingFormat))}")
    vectors, folder = _Vectors.of(model), path_of(folder, "export_embeddings")
    dataset = model.dataset
    files = {
        **_packed("user", dataset.users, vectors.user_UD, format),
        **_packed("item", dataset.items, vectors.item_ID, format),
    }
    facts = {
        "model": model.name,
        "users": len(vectors.user_UD),
        "items": len(vectors.item_ID),
        "dimensions": vectors.item_ID.shape[1],
        "bias": "last dimension" if vectors.has_bias else None,
        "left_out": vectors.left_out,
    }
    write_folder(folder, {**files, FACTS: json.dumps(facts, indent=1).encode()}, kind=_FOLDER)
    return vectors.exported(folder, (*files, FACTS))


def export_to_qdrant(model: "Model", client: Any, prefix: str = "lanner") -> EmbeddingsExport:
    """Write the vectors of ``export_embeddings`` to new Qdrant collections: ``<prefix>_users``, ``<prefix>_items``.

    Points are numbered by row; the payload has ``id``, as in the dataset, and ``title`` for items. Scores are
    inner products. A search for a user is ``client.query_points("lanner_items", query=vector)``.

    Args:
        model: fitted or loaded.
        client: a ``qdrant_client.QdrantClient``, or what ``lanner export embeddings --qdrant`` takes: a URL, or
            ``:memory:``.
        prefix: of the collection names.

    Raises:
        ConfigError: not fitted, a model without vectors, or a collection that already exists.
        ServerError: Qdrant is unreachable or rejects the request. MissingExtraError: qdrant-client is not installed.
    """
    qdrant = optional_module("qdrant_client", "qdrant-client", "qdrant", "exporting to Qdrant")
    vectors = _Vectors.of(model)
    if isinstance(client, str):
        client = qdrant.QdrantClient(client)
    kinds = {
        f"{prefix}_users": (model.dataset.user_ids, None, vectors.user_UD),
        f"{prefix}_items": (model.dataset.item_ids, model.dataset.item_catalogue.titles, vectors.item_ID),
    }
    try:
        taken = [name for name in kinds if client.collection_exists(name)]
        if taken:
            raise ConfigError(f"Qdrant has a collection '{taken[0]}'; remove it, or give another prefix")
        for name, (ids, titles, found_ND) in kinds.items():
            sized = qdrant.models.VectorParams(size=found_ND.shape[1], distance=qdrant.models.Distance.DOT)
            client.create_collection(name, vectors_config=sized)
            for first in range(0, len(found_ND), _POINTS_AT_ONCE):
                rows = range(first, min(first + _POINTS_AT_ONCE, len(found_ND)))
                payloads = [{"id": ids[row]} | ({} if titles is None else {"title": titles[row]}) for row in rows]
                block = found_ND[rows.start : rows.stop].tolist()
                client.upsert(name, qdrant.models.Batch(ids=list(rows), vectors=block, payloads=payloads))
    except (OSError, qdrant.http.exceptions.ApiException) as error:
        raise ServerError(
            f"Qdrant cannot be reached or refused the request ({' '.join(str(error).split())})"
        ) from error
    return vectors.exported(None, tuple(kinds))


# --- recommendations -------------------------------------------------------------------------------------------------

_ReadProfiles = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class _Request:
    """The request of an export.

    everyone: all users of the dataset, then one without data. rows: int64 ``[n]``, of ``everyone``. names: ids ``[n]``.
    read: profiles to features, if the model reads them. allow: None: every item.
    """

    scoring: ScoringModel
    dataset: Dataset
    everyone: UserBatch
    rows: NDArray[np.int64]
    names: NDArray[np.int64] | list[str]
    k: int
    read: _ReadProfiles | None
    allow: RowMask | None
    exclude_seen: bool

    @classmethod
    def of(cls, model: "Model", k: int, users: Any, filters: Filters | None, *, exclude_seen: bool) -> "_Request":
        k, dataset = checked_k(k), model.dataset
        anonymous, names = dataset.num_users, dataset.users.column(dataset.user_ids)
        rows = np.arange(anonymous)
        if users is not None:
            requested = list(dict.fromkeys(map(id_text, ids_of(users, "users"))))
            names = dataset.users.column(dataset.users.given_back(requested))
            rows = np.array(
                [dataset.users.row(one) if one in dataset.users else anonymous for one in requested], np.int64
            )
        allow = allowed(dataset.item_catalogue.attributes, filters, dataset.num_items)
        everyone = _with_anonymous_user(dataset.user_batch())
        return cls(
            model._fitted_ranker.model, dataset, everyone, rows, names, k, _profile_reader(model), allow, exclude_seen
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def unknown(self) -> int:
        """Number of users not in the dataset."""
        return int((self.rows == self.dataset.num_users).sum())

    @cached_property
    def blocks(self) -> list[NDArray[np.int64]]:
        """The rows in blocks."""
        size = min(MOST_USERS, max(LEAST_USERS, SCORES_AT_ONCE // max(1, self.dataset.num_items)))
        return [self.rows[first : first + size] for first in range(0, len(self), size)]

    def rank(self, rows: NDArray[np.int64]) -> BulkRanking:
        """The k best items of users of ``everyone``."""
        users = self.everyone.take(rows)
        excluded = (users.history if users.seen is None else users.seen) if self.exclude_seen else None
        candidates = None if self.allow is None else self.allow.rows()
        features = self.read(users.profiles) if self.read and users.profiles else None
        return self._ranker.rank(users, self.k, excluded, candidates, features)

    @cached_property
    def _ranker(self) -> BulkRanker:
        return BulkRanker(self.scoring)

    def frame(self, finished: "_Blocks") -> pl.LazyFrame:
        """All rows of the output; only a few blocks are in memory at a time."""
        users = _series("user_id", self.names)
        items = _series("item_id", self.dataset.items.column(self.dataset.item_ids))

        def frames(*_: Any) -> Iterator[pl.DataFrame]:
            first = 0
            for place, rows in enumerate(self.blocks):
                ranking = finished.read(place)
                assert ranking is not None
                user, rank = np.nonzero(ranking.items >= 0)
                columns = {
                    "user_id": users.gather(first + user),
                    "item_id": items.gather(ranking.items[user, rank]),
                    "rank": (rank + 1).astype(np.int32),
                    "score": ranking.scores[user, rank],
                }
                yield pl.DataFrame(columns)
                first += len(rows)

        schema = {"user_id": users.dtype, "item_id": items.dtype, "rank": pl.Int32(), "score": pl.Float32()}
        return register_io_source(frames, schema=schema)

    def digest(self) -> str:
        """SHA-256 of everything the blocks depend on."""
        users, found = self.everyone, hashlib.sha256()
        found.update(repr((SCHEMA, self.k, self.exclude_seen, len(self.blocks))).encode())
        for texts in (self.names, self.dataset.items.external, users.profiles or ()):
            found.update("\0".join(map(str, texts)).encode())
        arrays = {
            "rows": self.rows,
            "weights": users.weights,
            "allowed": None if self.allow is None else self.allow.allowed_R,
            **self.scoring.arrays(),
        }
        for name in ("history", "seen", "friends", "attributes"):
            lists = getattr(users, name)
            if lists is not None:
                arrays |= {f"{name}.indptr": lists.indptr, f"{name}.values": lists.values}
        for name, array in arrays.items():
            if array is not None:
                found.update(f"{name}{array.dtype}{array.shape}".encode())
                found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()


@dataclass(frozen=True)
class _Blocks:
    """Finished blocks in their own folder. restarted: whether blocks of another request were removed."""

    folder: Path
    restarted: bool

    @classmethod
    def open(cls, output: Path, digest: str) -> "_Blocks":
        """The blocks of the request with that digest.

        Raises:
            StorageError: the folder holds something else.
        """
        folder = output.with_name(f"{output.name}.partial")
        marker = folder / "request.sha256"
        held = marker.read_text() if marker.exists() else None
        if held is None and folder.exists() and any(folder.iterdir()):
            raise StorageError(f"{folder}: holds something other than an interrupted export; remove it")
        if held not in (None, digest):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(marker, digest.encode())
        return cls(folder, held not in (None, digest))

    def read(self, place: int) -> BulkRanking | None:
        """One block; None if missing or corrupt."""
        try:
            return BulkRanking(**load(self._path(place).read_bytes()))
        except (FileNotFoundError, SafetensorError):
            return None

    def write(self, place: int, ranking: BulkRanking) -> None:
        """Keep one block."""
        arrays = {name: np.ascontiguousarray(array) for name, array in vars(ranking).items()}
        write_file(self._path(place), save(arrays))

    def remove(self) -> None:
        """Remove the folder once the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, place: int) -> Path:
        return self.folder / f"{place:06d}.safetensors"


def _check_fitted(model: Any) -> None:
    """Raises ``ConfigError`` unless this is a fitted model."""
    from lanner.library.estimator import Model

    if not isinstance(model, Model):
        raise ConfigError(f"an export takes a model, received {type(model).__name__}")
    model._fitted_ranker  # noqa: B018


def _checked(path: Path) -> Path:
    if path.suffix not in WRITERS:
        raise RequestError(f"{path.name}: unknown format; the name must end with one of {', '.join(WRITERS)}")
    if path.is_dir():
        raise RequestError(f"{path} is a folder; give the name of a file")
    return path


def _with_anonymous_user(users: UserBatch) -> UserBatch:
    """The users, plus one without data."""

    def longer(lists: Ragged | None) -> Ragged | None:
        return None if lists is None else Ragged(np.append(lists.indptr, lists.indptr[-1]), lists.values)

    history, profiles = longer(users.history), None if users.profiles is None else (*users.profiles, "")
    assert history is not None
    lists = (longer(users.friends), users.weights, longer(users.seen), longer(users.attributes))
    return UserBatch(history, profiles, *lists)


def _profile_reader(model: "Model") -> _ReadProfiles | None:
    ranker = model._fitted_ranker
    return ranker.reader.features if ranker.reads_profile and ranker.reader is not None else None


# --- embeddings ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Vectors:
    """user_UD, item_ID: float32; the rest as in ``EmbeddingsExport``."""

    user_UD: NDArray[np.float32]
    item_ID: NDArray[np.float32]
    has_bias: bool
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, model: "Model") -> "_Vectors":
        """Raises ``ConfigError`` if the model is not fitted or has no vectors."""
        _check_fitted(model)
        scoring = model._fitted_ranker.model
        if not scoring.dimensions:
            raise ConfigError(
                f"the model {model.name} has no embeddings: its scores are not inner products of vectors; "
                "export recommendations instead"
            )
        user_UD, item_ID = _user_vectors(model), take(scoring.target_ID)
        has_bias = bool(scoring.bias_I.any())
        if has_bias:
            user_UD = np.hstack([user_UD, np.ones((len(user_UD), 1), np.float32)])
            item_ID = np.hstack([item_ID, scoring.bias_I[:, None]])
        parts = {"item_to_item": scoring.item_to_item, "head": scoring.head}
        left_out = tuple(name for name, part in parts.items() if part is not None)
        return cls(user_UD, item_ID, has_bias, left_out)

    def exported(self, path: Path | None, files: tuple[str, ...]) -> EmbeddingsExport:
        """The result for the caller."""
        sizes = (len(self.user_UD), len(self.item_ID), self.item_ID.shape[1])
        return EmbeddingsExport(path, files, *sizes, self.has_bias, self.left_out)


def _user_vectors(model: "Model") -> NDArray[np.float32]:
    """Vectors of all users of the dataset, float32 ``[U, D]``; computed in blocks."""
    users, read, scoring = model.dataset.user_batch(), _profile_reader(model), model._fitted_ranker.model
    found_UD = np.empty((len(users), scoring.dimensions), np.float32)
    for first in range(0, len(users), MOST_USERS):
        block = users.take(np.arange(first, min(first + MOST_USERS, len(users))))
        features = read(block.profiles) if read and block.profiles else None
        found_UD[first : first + len(block)] = scoring.users(block, features)
    return found_UD


def _packed(kind: str, known: IdMap, vectors_ND: NDArray[np.float32], format: EmbeddingFormat) -> dict[str, bytes]:
    """Bytes by file name. kind: user or item."""
    ids = known.column(known.ids(range(len(known))))
    if format == "parquet":
        file = BytesIO()
        pl.DataFrame([_series(f"{kind}_id", ids), pl.Series("vector", vectors_ND)]).write_parquet(file)
        return {f"{kind}s.parquet": file.getvalue()}
    named = {f"{kind}_ids.npy": _npy(_series("id", ids).to_numpy())}
    if format == "faiss" and kind == "item":
        faiss = optional_module("faiss", "faiss-cpu", "serving", "exporting a FAISS index")
        index = faiss.IndexFlatIP(vectors_ND.shape[1])
        index.add(np.ascontiguousarray(vectors_ND))
        return {"items.faiss": faiss.serialize_index(index).tobytes(), **named}
    return {f"{kind}s.npy": _npy(vectors_ND), **named}


def _npy(array: NDArray[Any]) -> bytes:
    """As a ``.npy`` file, which loads without unpickling."""
    file = BytesIO()
    np.save(file, array.astype(np.str_) if array.dtype == object else array, allow_pickle=False)
    return file.getvalue()


def _series(name: str, ids: NDArray[np.int64] | list[str]) -> pl.Series:
    return pl.Series(name, ids, pl.Int64 if isinstance(ids, np.ndarray) else pl.String)
