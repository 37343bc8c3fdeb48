"""A bundle opened for serving: its ladder in a runtime each, indexes on disk, and the catalogue as it is now."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lanner.artifact.bundle import SEAL, read_catalogue
from lanner.artifact.ladder import FOLDER, Rung, read_ladder
from lanner.data.catalogue import Catalogue
from lanner.data.interactions import Dataset
from lanner.models.request_form import RequestForm
from lanner.serving.backends import open_backend
from lanner.serving.engine import Engine, add_items, indexed_vectors, lists_the_same_for_all, remove_items
from lanner.serving.filters import AttributeFilter
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.live import LiveItems
from lanner.serving.live_texts import LiveTexts
from lanner.serving.messages import Item
from lanner.serving.retrieval import Index, build_index, load_index
from lanner.vocabulary import BundleError, ConfigError, LannerError, MissingExtraError

PREFERRED = ("openvino", "onnxruntime", "torch")
"""Runtimes on a CPU, the quickest first; the first that is installed is taken where none is named."""
_TUNING_USERS = 256


@dataclass(frozen=True)
class ModelConfig:
    """How a bundle is opened."""

    variants: tuple[str, ...] = ()
    """Rungs of the ladder to serve, best first; none: all."""
    backends: tuple[str, ...] = ()
    """Runtimes that read texts, each a place where requests may be sent; none: the quickest that is installed."""
    threads: int = 1
    """Threads of each runtime."""
    candidates: int = 200
    """Items retrieved, then ranked by the head."""
    most_new_items: int = 100_000
    """Items that may come or change until the server is restarted with a newer bundle."""

    def __post_init__(self) -> None:
        for name in ("threads", "candidates", "most_new_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"serving.{name} is {getattr(self, name)}, it must be at least 1")


class ServedModel:
    """engines: by (backend, variant). Items may come and go while others ask; one thread changes them at a time."""

    def __init__(
        self,
        version: str,
        dataset: Dataset,
        golden: Mapping[str, Any],
        engines: Mapping[tuple[str, str], Engine],
        texts: LiveTexts | None,
        config: ModelConfig,
    ) -> None:
        """texts: what the items' texts say, by row; None where no texts are read."""
        self.version, self.dataset, self.golden, self.engines, self.config = version, dataset, golden, engines, config
        self.texts = texts
        self.items = LiveItems(dataset)
        self.filters = AttributeFilter(dataset.item_catalogue)
        self._written: dict[str, bytes] = {}
        """A digest of each item that came or changed."""
        self._changing = Lock()

    @classmethod
    def open(cls, path: Path, config: ModelConfig | None = None) -> "ServedModel":
        """Read a bundle and its ladder; indexes are built on the first opening and kept beside the ladder.

        Raises:
            BundleError: no bundle or ladder there, or a damaged one. ConfigError: a variant or backend there is not.
        """
        config = config or ModelConfig()
        dataset, golden, _ = read_catalogue(path)
        ladder = read_ladder(path)
        reader, item_reader = ladder.reader, ladder.item_reader
        rungs = [ladder.rung(name) for name in config.variants or ladder.names]
        shared: dict[str, Index | FixedOrder] = {}
        engines: dict[tuple[str, str], Engine] = {}
        for name in config.backends or (_installed(rungs[0]),):
            for rung in rungs:
                key = _index_key(rung.form)
                if key not in shared:
                    shared[key] = _index(path / FOLDER / f"index-{key}", rung.form, dataset)
                backend = open_backend(name, rung, reader, config.threads)
                engines[name, rung.name] = Engine(
                    rung, backend, candidates=config.candidates, index=shared[key], item_reader=item_reader
                )
        texts = None if item_reader is None else LiveTexts(item_reader.texts)
        return cls((path / SEAL).read_text(encoding="ascii")[:12], dataset, golden, engines, texts, config)

    @property
    def variants(self) -> tuple[str, ...]:
        """Best first."""
        return tuple(dict.fromkeys(variant for _, variant in self.engines))

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(backend for backend, _ in self.engines))

    @property
    def best(self) -> Engine:
        """The engine that makes new items' rows and explains: of the best variant."""
        return next(iter(self.engines.values()))

    def verify(self) -> int:
        """Ask the golden requests of the best variant; returns how many there are.

        Of each stored list at most a tenth may differ: an approximate index may miss what an exact scan finds.

        Raises:
            BundleError: an answer differs by more.
        """
        for number, wanted in enumerate(self.golden["requests"]):
            rows = self.items.known_rows(wanted["history"])
            found = self.best.answer(rows, self.golden["k"])
            got = {one for one, _ in self.items.named(found.items)}
            if len(got & set(wanted["items"])) < 0.9 * len(wanted["items"]):
                raise BundleError(
                    f"bundle {self.version}: golden request {number} is answered differently; do not serve it"
                )
        return len(self.golden["requests"])

    def warm_up(self) -> None:
        """One request of each kind to every engine, so that the first caller waits no longer than the others."""
        for engine in self.engines.values():
            history = list(range(min(3, engine.num_items)))
            engine.answer(history, 3)
            if engine.reads_texts:
                engine.answer(history, 3, text="a first text")
            if engine.form.profile_FD is not None and engine.reads_texts:
                engine.answer(history, 3, profile="a first profile")

    def put_item(self, item_id: str, item: Item) -> bool:
        """Write an item; it can be found when this returns. Returns whether it was there.

        An item as it already is stays where it is: a server hears of its own changes from the store, too.

        Raises:
            ConfigError: this bundle reads no texts, so it cannot place an item nobody met; or too many came.
        """
        with self._changing:
            existed = item_id in self.items
            written = hashlib.sha256(msgspec.json.encode(item)).digest()
            if existed and self._written.get(item_id) == written:
                return True
            if self.items.num_rows - self.dataset.num_items >= self.config.most_new_items:
                raise ConfigError(f"{self.config.most_new_items} items came or changed; train and serve a newer bundle")
            features_F = self.best.features(item.text or item.title)
            rows = self.best.new_rows(features_F, self._learnt_row(item_id))
            added = add_items(list(self.engines.values()), rows)
            if self.texts is not None:
                self.texts.add(features_F)
            self.filters.put(int(added[0]), item.attributes)
            before = self.items.put(item_id, item.title)
            if before is not None:
                self._withdraw(before)
            self._written[item_id] = written
            return existed

    def delete_item(self, item_id: str) -> bool:
        """Remove an item; returns whether it was there."""
        with self._changing:
            row = self.items.remove(item_id)
            self._written.pop(item_id, None)
            if row is not None:
                self._withdraw(row)
            return row is not None

    def close(self) -> None:
        """Let go of the runtimes."""
        for engine in self.engines.values():
            if engine.backend is not None:
                engine.backend.close()

    def _withdraw(self, row: int) -> None:
        remove_items(list(self.engines.values()), np.array([row]))
        if self.texts is not None:
            self.texts.remove(row)
        self.filters.remove(row)

    def _learnt_row(self, item_id: str) -> int | None:
        """Where the bundle has the item, if it has."""
        return self.dataset.items.row(item_id) if item_id in self.dataset.items else None


def _installed(rung: Rung) -> str:
    for name in PREFERRED:
        try:
            open_backend(name, replace(rung, figures={})).close()
        except MissingExtraError:
            continue
        return name
    raise LannerError(f"none of the runtimes {', '.join(PREFERRED)} is installed: pip install 'lanner[onnx]'")


def _index_key(form: RequestForm) -> str:
    """Variants with the same name have the same targets, but for INT8's rounding, and so share an index."""
    reduction = form.reduction.target_DR
    if reduction is None:
        return "full"
    return hashlib.sha256(np.ascontiguousarray(reduction).tobytes()).hexdigest()[:12]


def _index(folder: Path, form: RequestForm, dataset: Dataset) -> Index | FixedOrder:
    """Read from disk, else built and written there; a damaged one is built anew."""
    if lists_the_same_for_all(form):
        return FixedOrder(indexed_vectors(form))
    try:
        return load_index(folder)
    except BundleError:
        pass
    index = build_index(indexed_vectors(form), queries=_queries(form, dataset))
    index.save(folder)
    return index


def _queries(form: RequestForm, dataset: Dataset) -> NDArray[np.float32] | None:
    """Vectors of some real users, as they will be asked for."""
    known = np.flatnonzero(dataset.histories.lengths)
    if not len(known):
        return None
    chosen = np.random.default_rng(0).permutation(known)[:_TUNING_USERS]
    users = form.users(dataset.user_batch(np.sort(chosen)))
    return np.hstack([users, np.ones((len(users), 1), np.float32)])


def frequent_values(catalogue: Catalogue, number: int) -> dict[str, list[str]]:
    """The values that most items hold, by attribute."""
    found = {}
    for name, attribute in catalogue.attributes.items():
        counts = np.bincount(attribute.codes.values, minlength=len(attribute.names))
        found[name] = [attribute.names[code] for code in np.argsort(-counts, kind="stable")[:number]]
    return found
