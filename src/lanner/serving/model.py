"""A bundle opened for serving: its ladder in a runtime each, indexes on disk, and the catalogue as it is now."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.bundle import SEAL, read_catalogue
from lanner.artifacts.ladder import Ladder, Rung, TextReader, read_ladder
from lanner.data.catalogue import Catalogue
from lanner.data.interactions import Dataset, UserBatch
from lanner.errors import BundleError, ConfigError, LannerError, MissingExtraError
from lanner.models.request_form import RequestForm
from lanner.models.request_items import ItemReader
from lanner.serving.backends import Backend, open_backend
from lanner.serving.engine import Engine, add_items, indexes_of, remove_items
from lanner.serving.filters import AttributeFilter
from lanner.serving.fixed_order import FixedOrder
from lanner.serving.folding import Folding, Followers
from lanner.serving.item_index import ItemIndex, KeptIndexes
from lanner.serving.item_tables import ItemTables
from lanner.serving.live import LiveItems
from lanner.serving.live_texts import LiveTexts
from lanner.serving.messages import Item
from lanner.serving.row_table import RowTable
from lanner.serving.shelf import MOST_NEW_ITEMS, Shelf, file_in_memory

_TUNING_USERS = 256
_READERS = 3
Indexed = Callable[[Dataset, Sequence[str], "ModelConfig", Shelf], None]
"""Told the dataset, the variants of a ladder whose indexes lie on disk, how it is opened and where new rows come."""


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
    most_new_items: int = MOST_NEW_ITEMS
    """Items that may come or change until the server is restarted with a newer bundle."""

    def __post_init__(self) -> None:
        for name in ("threads", "candidates", "most_new_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"serving.{name} is {getattr(self, name)}, it must be at least 1")


@dataclass(frozen=True)
class Placing:
    """What makes an item of a text. whole: the ladder's first form, of whose rows those of every rung are made."""

    reader: ItemReader
    whole: RequestForm


class ServedModel:
    """engines: by (backend, variant). Items may come and go while others ask; one thread changes them at a time."""

    def __init__(
        self,
        path: Path,
        version: str,
        dataset: Dataset,
        golden: Mapping[str, Any],
        engines: Mapping[tuple[str, str], Engine],
        placing: Placing | None,
        config: ModelConfig,
    ) -> None:
        """path: of the bundle. placing: None where the best engine reads no texts."""
        self.path = path
        self.version, self.dataset, self.golden, self.engines, self.config = version, dataset, golden, engines, config
        self._placing = placing
        self.texts = None if placing is None else LiveTexts(placing.reader.texts)
        """What the items' texts say, by row."""
        self.items = LiveItems(dataset)
        self.filters = AttributeFilter(dataset.item_catalogue)
        self._written: dict[str, bytes] = {}
        """A digest of each item that came or changed."""
        self._changing = Lock()
        self._folding = Folding(version)
        self.followers: Followers | None = None
        """Who answers from the same catalogue elsewhere, and hears of every change before it can be asked for."""

    @classmethod
    def open(cls, path: Path, config: ModelConfig | None = None, indexed: Indexed | None = None) -> "ServedModel":
        """Read a bundle and its ladder; indexes are built on the first opening and kept beside the ladder.

        indexed: called once all indexes are there, for who opens the same ladder elsewhere meanwhile.

        Raises:
            BundleError: no bundle or ladder there, or a damaged one. ConfigError: a variant or backend there is not.
        """
        config = config or ModelConfig()
        dataset, golden, _ = read_catalogue(path)
        ladder = read_ladder(path)
        shelf = Shelf(config.most_new_items, None if indexed is None else file_in_memory())
        with ThreadPoolExecutor(_READERS) as pool:
            # Most of the time goes into checksums and runtimes, which let go of the interpreter.
            texts = pool.submit(lambda: (ladder.reader, ladder.item_reader))
            reading = pool.submit(_indexed_rungs, ladder, dataset, config, shelf, indexed)
            opening = pool.submit(lambda: _backends(reading.result()[0], texts.result()[0], config))
            RowTable({})  # Numba gets itself ready, which takes a second and needs the interpreter all the time
        rungs, index_of = reading.result()
        _, item_reader = texts.result()
        tables_of = {rung.name: ItemTables(rung.form, rung.name, shelf) for rung in rungs}
        engines = {
            (backend.name, rung.name): Engine(
                rung,
                backend,
                candidates=config.candidates,
                index=index_of[rung.name],
                item_reader=item_reader,
                tables=tables_of[rung.name],
            )
            for rung, backend in opening.result()
        }
        if rungs[0].name != ladder.names[0]:
            # They are answers of the first variant, which another gives only roughly.
            golden = {**golden, "requests": []}
        placing = None
        if item_reader is not None and next(iter(engines.values())).reads_texts:
            first = ladder.names[0]
            placing = Placing(item_reader, rungs[0].form if rungs[0].name == first else ladder.rung(first).form)
        return cls(path, (path / SEAL).read_text(encoding="ascii")[:12], dataset, golden, engines, placing, config)

    @property
    def variants(self) -> tuple[str, ...]:
        """Best first."""
        return tuple(dict.fromkeys(variant for _, variant in self.engines))

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(backend for backend, _ in self.engines))

    @property
    def quickest(self) -> tuple[str, str] | None:
        """The engine that lists the same for everybody, where there are others."""
        found = [key for key, engine in self.engines.items() if isinstance(engine.index, FixedOrder)]
        return found[0] if found and len(self.variants) > 1 else None

    @property
    def best(self) -> Engine:
        """The engine that makes new items' rows and explains: of the best variant."""
        return next(iter(self.engines.values()))

    def held_bytes(self) -> dict[str, int]:
        """Of the indexes, each once, and of the rungs beside them; runtimes share a rung."""
        rungs = {variant: engine.bytes_beside_index for (_, variant), engine in self.engines.items()}
        indexes = sum(index.memory_bytes for index in indexes_of(self.engines.values()))
        return {"indexes": indexes, "rungs": sum(rungs.values())}

    def verify(self) -> int:
        """Ask the golden requests; returns how many there are: none where the ladder's first variant is not served.

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
        if self._placing is None or self.texts is None:
            raise ConfigError("this recommender reads no texts, so it cannot place an item that nobody met")
        with self._changing:
            existed = item_id in self.items
            written = hashlib.sha256(msgspec.json.encode(item)).digest()
            if existed and self._written.get(item_id) == written:
                return True
            if self.items.num_rows - self.dataset.num_items >= self.config.most_new_items:
                raise ConfigError(f"{self.config.most_new_items} items came or changed; train and serve a newer bundle")
            features_F = self._reads_items.item_features(item.text or item.title)
            rows = self._placing.reader.read(self._placing.whole, features_F[None], [self._learnt_row(item_id)])
            if self.followers is not None:
                self.followers.add(rows)
            added = add_items(list(self.engines.values()), rows)
            self.texts.add(features_F)
            self.filters.put(int(added[0]), item.attributes)
            before = self.items.put(item_id, item.title)
            if before is not None:
                self._withdraw(before)
            self._written[item_id] = written
            self._folding.fold(self.engines.values(), self.followers)
            return existed

    def delete_item(self, item_id: str) -> bool:
        """Remove an item; returns whether it was there."""
        with self._changing:
            row = self.items.remove(item_id)
            self._written.pop(item_id, None)
            if row is not None:
                self._withdraw(row)
                self._folding.fold(self.engines.values(), self.followers)
            return row is not None

    def close(self) -> None:
        """Let go of the runtimes."""
        for engine in self.engines.values():
            if engine.backend is not None:
                engine.backend.close()

    def _withdraw(self, row: int) -> None:
        if self.followers is not None:
            self.followers.remove(np.array([row]))
        remove_items(list(self.engines.values()), np.array([row]))
        if self.texts is not None:
            self.texts.remove(row)
        self.filters.remove(row)

    @property
    def _reads_items(self) -> Engine:
        """INT8 reads in a third of the time, and its loss was found to be within the budget when it was made."""
        quick = (engine for (_, variant), engine in self.engines.items() if variant == "int8" and engine.reads_texts)
        return next(quick, self.best)

    def _learnt_row(self, item_id: str) -> int | None:
        """Where the bundle has the item, if it has."""
        first = self.items.first_row(item_id)
        return first if first is not None and first < self.dataset.num_items else None


def _backends(rungs: Sequence[Rung], reader: TextReader | None, config: ModelConfig) -> list[tuple[Rung, Backend]]:
    """Every rung in every runtime; rungs of the same encoder share it."""
    opened: list[tuple[Rung, Backend]] = []
    for name in config.backends or (installed_backend(rungs[0]),):
        for rung in rungs:
            others = [backend for _, backend in opened]
            opened.append((rung, open_backend(name, rung, reader, config.threads, others)))
    return opened


def _indexed_rungs(
    ladder: Ladder, dataset: Dataset, config: ModelConfig, shelf: Shelf, indexed: Indexed | None
) -> tuple[list[Rung], dict[str, ItemIndex]]:
    """The rungs to serve, and the index of each by its name."""
    rungs = [ladder.rung(name) for name in config.variants or ladder.names]
    indexes, users = KeptIndexes(ladder.path, config.candidates), tuning_users(dataset)
    index_of = {rung.name: indexes.of(rung.form, partial(queries_of, rung.form, users)) for rung in rungs}
    if indexed is not None:
        indexed(dataset, list(index_of), config, shelf)
    return rungs, index_of


def preferred(cpu_facts: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Runtimes on a CPU; the first that is installed is taken where none is named.

    OpenVINO reads INT8 quickly where the processor has products for it (VNNI): a text of 32 tokens took 3.1 ms and
    ONNX Runtime 3.4; without them 11.4 and 4.7. The project's own products take 3 there, but a machine that never ran
    them compiles them first, for ten seconds: they come before torch, and before others where they are asked for.
    cpu_facts: as Linux tells them.
    """
    try:
        facts = cpu_facts.read_text(errors="replace")
    except OSError:
        facts = ""
    runtimes = ("openvino", "onnxruntime") if "vnni" in facts else ("onnxruntime", "openvino")
    return (*runtimes, "numba", "torch") if "avx2" in facts else (*runtimes, "torch")


def installed_backend(rung: Rung) -> str:
    """The quickest runtime that is installed."""
    for name in preferred():
        try:
            open_backend(name, replace(rung, figures={})).close()
        except MissingExtraError:
            continue
        return name
    raise LannerError(f"none of the runtimes {', '.join(preferred())} is installed: pip install 'lanner[onnx]'")


def tuning_users(dataset: Dataset) -> UserBatch:
    """Some real users, as they will ask; nobody where nobody met anything."""
    known = np.flatnonzero(dataset.histories.lengths)
    return dataset.user_batch(np.sort(np.random.default_rng(0).permutation(known)[:_TUNING_USERS]))


def queries_of(form: RequestForm, users: UserBatch) -> NDArray[np.float32] | None:
    """What an index is asked for users; None for nobody."""
    if not len(users):
        return None
    return np.hstack([form.users(users), np.ones((len(users), 1), np.float32)])


def frequent_values(catalogue: Catalogue, number: int) -> dict[str, list[str]]:
    """The values that most items hold, by attribute."""
    found = {}
    for name, attribute in catalogue.attributes.items():
        counts = np.bincount(attribute.codes.values, minlength=len(attribute.names))
        found[name] = [attribute.names[code] for code in np.argsort(-counts, kind="stable")[:number]]
    return found
