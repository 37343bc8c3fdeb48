"""The bundle: a folder that holds all that is needed to recommend, and the only contract between training and serving.

``manifest.json`` carries the schema version, the model's name and settings, the run's configuration and metrics, facts
of every variant, and a SHA-256 of every other file; ``manifest.sha256`` carries its own. A file is checked before any
of it is used, and nothing is executed.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

import lanner
from lanner.artifacts import dataset_files
from lanner.artifacts.golden import ask_golden, check_golden
from lanner.artifacts.variants import (
    FULL,
    POPULARITY,
    TextFiles,
    Variant,
    pack_texts,
    pack_variants,
    read_items,
    read_texts,
    read_variant,
)
from lanner.data.describe import fingerprint
from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.errors import BundleError, ConfigError, LannerError
from lanner.files import check_file, digest, read_checked, write_folder
from lanner.inference.cold_start import ItemReader
from lanner.inference.ranker import Ranker
from lanner.inference.scoring_model import popularity_model
from lanner.models.recommender import Recommender

SCHEMA = 2
"""Raised whenever an older reader would misread what is written."""
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
_STATE, _GOLDEN = "model.safetensors", "golden.json"

Builder = Callable[[str], Recommender]
"""An empty recommender by the name of its model, ready for ``load_state``."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was checked; everything else is read, and checked, when it is asked for.

    builder: for ``recommender`` alone; ``pipeline.open_bundle`` has one for every model.
    """

    path: Path
    manifest: Mapping[str, Any]
    builder: Builder | None = None

    @property
    def version(self) -> str:
        """Twelve characters of the checksum: equal for equal bundles."""
        return _checksum(self.path)[:12]

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration, as the table it was written as."""
        return dict(self.manifest["config"])

    @property
    def variants(self) -> tuple[str, ...]:
        """Names, best first."""
        return tuple(self.manifest["variants"])

    @property
    def watermark(self) -> int:
        """The event store's sequence up to which events were trained on; 0: none of a store were."""
        return int(self.manifest["watermark"])

    @property
    def report(self) -> dict[str, Any]:
        """What compression found; empty for a bundle that was not compressed."""
        return dict(self.manifest.get("report", {}))

    def variant(self, name: str = FULL) -> Variant:
        """One variant. Raises ``ConfigError`` where there is none of that name, ``BundleError`` for a damaged file."""
        return read_variant(self.path, name, self.manifest)

    @cached_property
    def feedback(self) -> Feedback:
        """Which events speak for an item, and how much."""
        return Feedback(**self.manifest["feedback"])

    @cached_property
    def dataset(self) -> Dataset:
        """Every event known when the bundle was written."""
        return self._data[0]

    @cached_property
    def golden(self) -> dict[str, Any]:
        """Golden requests, see ``golden.py``."""
        found: dict[str, Any] = json.loads(self._read(_GOLDEN))
        return found

    @cached_property
    def text_files(self) -> TextFiles | None:
        """How texts are read; None for a recommender that reads none."""
        return read_texts(self.path, self.manifest)

    @cached_property
    def item_reader(self) -> ItemReader | None:
        """What the text of a new item becomes; None for a recommender that reads none."""
        return read_items(self.path, self.manifest)

    @cached_property
    def recommender(self) -> Recommender:
        """The model as it was trained, to be trained on or compressed; answers need only a variant.

        Raises:
            BundleError: a damaged file, or one that this version cannot read.
        """
        if self.builder is None:
            raise BundleError(f"{self.path}: opened without a builder of models; use pipeline.open_bundle")
        dataset, fitted = self._data
        learned_from = dataset.with_interactions(dataset.interactions.take(fitted))
        model, arrays = self.manifest["model"], load(self._read(_STATE))
        try:
            return self.builder(model["name"]).load_state(arrays, model["settings"], learned_from)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            # Intact, so written by a version whose models kept other arrays or settings.
            written = self.manifest["lanner"]
            raise BundleError(
                f"{self.path}: its model, of lanner {written}, cannot be read by {lanner.__version__}"
            ) from error

    def verify(self) -> int:
        """Check every file and ask every variant its golden requests again; returns how many were asked.

        Raises:
            BundleError: a file is damaged, or an answer differs from the one stored.
        """
        for name, expected in self.manifest["sha256"].items():
            check_file(self.path / name, expected)
        asked = 0
        for name in self.variants:
            asked += check_golden(Ranker(self.variant(name).model), name, self.dataset, self.golden, self.path)
        return asked

    @cached_property
    def _data(self) -> tuple[Dataset, NDArray[np.bool_]]:
        files = {name: self._read(name) for name in dataset_files.FILES}
        dataset, fitted = dataset_files.unpack_dataset(files, self.manifest["dataset"])
        return self.feedback.apply(dataset), fitted

    def _read(self, name: str) -> bytes:
        return read_checked(self.path / name, self.manifest["sha256"][name])


def write_bundle(
    path: Path | str,
    recommender: Recommender,
    *,
    dataset: Dataset,
    fitted: NDArray[np.bool_],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    feedback: Feedback | None = None,
    watermark: int = 0,
    full: Variant | None = None,
    texts: TextFiles | None = None,
    items: ItemReader | None = None,
) -> Path:
    """Write a folder that ``read_bundle`` reads; an older bundle there is replaced at the very end.

    Args:
        path: the folder.
        recommender: fitted.
        dataset: all known events.
        fitted: bool ``[E]``: those that ``recommender`` learned from.
        config: the run's effective configuration, the model's name under ``model``; JSON can hold it.
        metrics: what the evaluation found; JSON can hold it.
        feedback: what events say of their items; None: each speaks for its item.
        watermark: see ``Bundle.watermark``.
        full: the full variant with its encoder's files; None: the exported model without an encoder.
        texts, items: how texts and new items are read; None: not at all.

    Raises:
        StorageError: the disk refused; what stood there before still stands.
    """
    path, full = Path(path), full or Variant(FULL, recommender.scoring_model)
    variants = [full]
    if full.model.is_personal:
        variants.append(Variant(POPULARITY, popularity_model(full.model.popularity_I, full.model.dimensions)))
    arrays, settings = recommender.state()
    files, facts = dataset_files.pack_dataset(dataset, fitted)
    files[_STATE] = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    text_files, text_facts = pack_texts(texts, items)
    told = {
        "model": {"name": config["model"], "settings": settings},
        "config": dict(config),
        "metrics": dict(metrics),
        "feedback": asdict(feedback or Feedback()),
        "watermark": watermark,
        "texts": text_facts,
        "dataset": {
            "fingerprint": fingerprint(dataset),
            "users": dataset.num_users,
            "items": dataset.num_items,
            "events": len(dataset.interactions),
            **facts,
        },
    }
    return _write(path, {**files, **text_files}, told, variants, dataset)


def write_compressed(path: Path | str, bundle: Bundle, variants: Sequence[Variant], report: Mapping[str, Any]) -> Path:
    """Write a new bundle: ``bundle`` with other variants, and what compression found. ``bundle`` stays as it is.

    Raises:
        ConfigError: as ``check_apart``. StorageError: the disk refused. BundleError: a file of the bundle is damaged.
    """
    path = Path(path)
    check_apart(bundle.path, path)
    own = [f"{name}." for name in bundle.variants]
    kept = [name for name in bundle.manifest["sha256"] if name != _GOLDEN and not name.startswith(tuple(own))]
    files = {name: bundle._read(name) for name in kept}
    told = {name: bundle.manifest[name] for name in _TOLD}
    return _write(path, files, {**told, "report": dict(report)}, variants, bundle.dataset)


def check_apart(bundle: Path, out: Path) -> None:
    """Raises ``ConfigError`` where a new bundle would lie in a sealed one, around it, or in its place."""
    sealed, new = bundle.resolve(), out.resolve()
    if new == sealed or sealed in new.parents or new in sealed.parents:
        raise ConfigError(f"{out} is, holds or lies in the bundle that is compressed; give another folder")


_TOLD = ("model", "config", "metrics", "feedback", "watermark", "texts", "dataset")
"""What a compressed bundle says as the one it was made of."""


def _write(
    path: Path, files: Mapping[str, bytes], told: Mapping[str, Any], variants: Sequence[Variant], dataset: Dataset
) -> Path:
    of_variants, facts = pack_variants(variants)
    contents = {**files, **of_variants, _GOLDEN: _json(ask_golden(variants, dataset))}
    manifest = {
        "schema": SCHEMA,
        "lanner": lanner.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **told,
        "variants": facts,
        "sha256": {name: digest(content) for name, content in contents.items()},
    }
    written = _json(manifest)
    write_folder(path, {**contents, MANIFEST: written, CHECKSUM: digest(written).encode()}, replaceable=MANIFEST)
    return path


def read_bundle(path: Path | str, builder: Builder | None = None) -> Bundle:
    """A bundle, its manifest checked.

    Raises:
        BundleError: there is none, it is damaged, or of another schema.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: no bundle there (no {MANIFEST}); write one with: lanner train")
    content = read_checked(path / MANIFEST, _checksum(path))
    try:
        manifest = json.loads(content)
        schema = manifest["schema"]
    except (ValueError, TypeError, KeyError):
        raise BundleError(f"{path / MANIFEST}: is no manifest; write the bundle anew") from None
    if schema != SCHEMA:
        raise BundleError(f"{path}: a bundle of schema {schema}, this version reads {SCHEMA}; train it anew")
    absent = [key for key in (*_TOLD, "variants", "sha256", "lanner") if key not in manifest]
    if absent:
        raise BundleError(f"{path / MANIFEST}: has no '{absent[0]}'; write the bundle anew")
    return Bundle(path, manifest, builder)


def _checksum(path: Path) -> str:
    try:
        return (path / CHECKSUM).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / CHECKSUM}: cannot be read ({error}); write the bundle anew") from None


def _json(table: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(table, ensure_ascii=False, indent=1).encode()
    except TypeError as error:
        raise LannerError(f"settings or metrics that JSON cannot hold: {error}") from error
