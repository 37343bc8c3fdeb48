"""The bundle: a folder with everything needed to recommend; the only interface between training and serving.

``manifest.json`` has the schema version, the model's name and settings, the run's configuration and metrics, metadata
of every variant, and the SHA-256 of every other file; ``manifest.sha256`` has its own. A file is verified before it is
used, and nothing is executed.
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
from lanner.artifacts import dataset_files, model_card
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
from lanner.files import FolderKind, check_file, check_replaceable, digest, read_checked, write_folder
from lanner.inference.cold_start import ItemReader
from lanner.inference.ranker import Ranker
from lanner.inference.scoring_model import popularity_model
from lanner.models.recommender import Recommender

SCHEMA = 6
"""Incremented on incompatible changes of the format."""
MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"
_STATE, _GOLDEN = "model.safetensors", "golden.json"


def _files_of(manifest: Mapping[str, Any]) -> set[str]:
    return {MANIFEST, CHECKSUM, *manifest["sha256"].keys()} if "schema" in manifest else set()


KIND = FolderKind("a bundle", MANIFEST, _files_of)
"""What a bundle may replace: a bundle of any schema version, with no other files in it."""
Builder = Callable[[str], Recommender]
"""Creates an unfitted recommender by model name, ready for ``load_state``."""


@dataclass(frozen=True)
class Bundle:
    """A bundle with a verified manifest; other files are read and verified on demand.

    builder: needed by ``recommender`` only; see ``pipeline.open_bundle``.
    """

    path: Path
    manifest: Mapping[str, Any]
    builder: Builder | None = None

    @property
    def version(self) -> str:
        """The first 12 hex digits of the manifest's checksum: equal for equal bundles."""
        return _checksum(self.path)[:12]

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration as a TOML-like table."""
        return dict(self.manifest["config"])

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants, best first."""
        return tuple(self.manifest["variants"])

    @property
    def watermark(self) -> int:
        """The event store's sequence number up to which events were trained on; 0: none."""
        return int(self.manifest["watermark"])

    @property
    def report(self) -> dict[str, Any]:
        """Results of compression; empty for an uncompressed bundle."""
        return dict(self.manifest.get("report", {}))

    def variant(self, name: str = FULL) -> Variant:
        """One variant. Raises ``ConfigError`` for an unknown name, ``BundleError`` for a damaged file."""
        return read_variant(self.path, name, self.manifest)

    @cached_property
    def feedback(self) -> Feedback:
        """How events become confidences."""
        return Feedback(**self.manifest["feedback"])

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset with all events known when the bundle was written."""
        return self._data[0]

    @cached_property
    def learned_from(self) -> Dataset:
        """The dataset with only the events that the model was fitted on."""
        dataset, fitted = self._data
        return self.feedback.apply(dataset.with_interactions(dataset.interactions.take(fitted)))

    @cached_property
    def golden(self) -> dict[str, Any]:
        """Golden requests, see ``golden.py``."""
        found: dict[str, Any] = json.loads(self._read(_GOLDEN))
        return found

    @property
    def card(self) -> str:
        """The model card, Markdown. Raises ``BundleError`` if it is damaged or missing (older bundles)."""
        if model_card.NAME not in self.manifest["sha256"]:
            raise BundleError(f"{self.path}: has no model card (written by an older lanner); write the bundle again")
        return self._read(model_card.NAME).decode()

    @cached_property
    def text_files(self) -> TextFiles | None:
        """How texts are encoded; None if the model does not use texts."""
        return read_texts(self.path, self.manifest)

    @cached_property
    def item_reader(self) -> ItemReader | None:
        """How new items are scored from their texts; None if the model does not use texts."""
        return read_items(self.path, self.manifest)

    @cached_property
    def recommender(self) -> Recommender:
        """The trained model, to continue training or to compress; recommending needs only a variant.

        Raises:
            BundleError: a damaged file, or an incompatible version.
        """
        if self.builder is None:
            raise BundleError(f"{self.path}: opened without a model builder; use pipeline.open_bundle")
        model, arrays = self.manifest["model"], load(self._read(_STATE))
        try:
            return self.builder(model["name"]).load_state(arrays, model["settings"], self.learned_from)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            # The checksums match, so another version wrote it with other arrays or settings.
            written = self.manifest["lanner"]
            raise BundleError(
                f"{self.path}: its model was written by lanner {written} and cannot be read by {lanner.__version__}"
            ) from error

    def verify(self) -> int:
        """Verify every file and replay the golden requests on every variant; returns how many were replayed.

        Raises:
            BundleError: a file is damaged, or an answer differs from the stored one.
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
    """Write a bundle folder; an existing bundle is replaced atomically at the end.

    Args:
        path: the folder.
        recommender: the fitted model.
        dataset: all known events.
        fitted: bool ``[E]``: events that the model was fitted on.
        config: the run's effective configuration, with the model's name under ``model``; JSON-compatible.
        metrics: evaluation results; JSON-compatible.
        feedback: how events become confidences; None: every event is positive with confidence 1.
        watermark: see ``Bundle.watermark``.
        full: the full variant with its encoder files; None: the exported model without an encoder.
        texts, items: how texts and new items are encoded; None: not supported.

    Raises:
        StorageError: the disk cannot be written; an existing bundle is unchanged.
    """
    path, full = Path(path), full or Variant(FULL, recommender.scoring_model)
    variants = [full]
    if full.model.is_personal:
        variants.append(Variant(POPULARITY, popularity_model(full.model.popularity_I, full.model.dimensions)))
    arrays, settings = recommender.state()
    files, facts = dataset_files.pack_dataset(dataset, fitted)
    files[_STATE] = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    text_files, text_facts = pack_texts(texts, items)
    manifest_entries = {
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
    return _write(path, {**files, **text_files}, manifest_entries, variants, dataset)


def write_compressed(path: Path | str, bundle: Bundle, variants: Sequence[Variant], report: Mapping[str, Any]) -> Path:
    """Write a new bundle: ``bundle`` with other variants and a compression report. ``bundle`` is not modified.

    Raises:
        ConfigError: as ``check_apart``. StorageError: the disk cannot be written. BundleError: a damaged file.
    """
    path = Path(path)
    check_apart(bundle.path, path)
    own = [f"{name}." for name in bundle.variants]
    anew = (_GOLDEN, model_card.NAME)
    kept = [name for name in bundle.manifest["sha256"] if name not in anew and not name.startswith(tuple(own))]
    files = {name: bundle._read(name) for name in kept}
    manifest_entries = {name: bundle.manifest[name] for name in _MANIFEST_KEYS}
    return _write(path, files, {**manifest_entries, "report": dict(report)}, variants, bundle.dataset)


def check_place(path: Path) -> None:
    """Raises ``StorageError`` if ``path`` holds something that a new bundle may not replace."""
    check_replaceable(path, KIND)


def check_apart(bundle: Path, out: Path) -> None:
    """Raises ``ConfigError`` if ``out`` is ``bundle``, or one contains the other."""
    sealed, new = bundle.resolve(), out.resolve()
    if new == sealed or sealed in new.parents or new in sealed.parents:
        raise ConfigError(f"{out} overlaps the bundle {bundle}; choose another folder")


_MANIFEST_KEYS = ("model", "config", "metrics", "feedback", "watermark", "texts", "dataset")
"""Manifest entries that a compressed bundle takes from its source."""


def _write(
    path: Path,
    files: Mapping[str, bytes],
    manifest_entries: Mapping[str, Any],
    variants: Sequence[Variant],
    dataset: Dataset,
) -> Path:
    of_variants, facts = pack_variants(variants)
    contents = {**files, **of_variants, _GOLDEN: _json(ask_golden(variants, dataset))}
    manifest = {
        "schema": SCHEMA,
        "lanner": lanner.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **manifest_entries,
        "variants": facts,
    }
    contents[model_card.NAME] = model_card.model_card(manifest).encode()
    manifest["sha256"] = {name: digest(content) for name, content in contents.items()}
    written = _json(manifest)
    write_folder(path, {**contents, MANIFEST: written, CHECKSUM: digest(written).encode()}, kind=KIND)
    return path


def read_bundle(path: Path | str, builder: Builder | None = None) -> Bundle:
    """Open a bundle and verify its manifest.

    Raises:
        BundleError: no bundle, a damaged one, or another schema version.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: not a bundle (no {MANIFEST}); create one with: lanner train")
    content = read_checked(path / MANIFEST, _checksum(path))
    try:
        manifest = json.loads(content)
        schema = manifest["schema"]
    except (ValueError, TypeError, KeyError):
        raise BundleError(f"{path / MANIFEST}: not a valid manifest; write the bundle again") from None
    if schema != SCHEMA:
        raise BundleError(f"{path}: bundle schema {schema}, this version reads {SCHEMA}; train it again")
    absent = [key for key in (*_MANIFEST_KEYS, "variants", "sha256", "lanner") if key not in manifest]
    if absent:
        raise BundleError(f"{path / MANIFEST}: has no '{absent[0]}'; write the bundle again")
    return Bundle(path, manifest, builder)


def _checksum(path: Path) -> str:
    try:
        return (path / CHECKSUM).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / CHECKSUM}: cannot be read ({error}); write the bundle again") from None


def _json(table: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(table, ensure_ascii=False, indent=1).encode()
    except TypeError as error:
        raise LannerError(f"settings or metrics are not JSON-compatible: {error}") from error
