"""The bundle: a folder that holds all that is needed to recommend, and the only contract between training and serving.

``manifest.json`` carries the schema version, the model's name and settings, the run's configuration and metrics, and a
SHA-256 of every other file; ``manifest.sha256`` carries its own. Reading checks all first, and executes nothing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

import lanner
from lanner.artifacts import dataset_files
from lanner.artifacts.files import digest, read_checked, write_folder
from lanner.artifacts.golden import ask_golden, check_golden
from lanner.data.describe import fingerprint
from lanner.data.interactions import Dataset
from lanner.errors import BundleError, LannerError
from lanner.models.recommender import Recommender

SCHEMA = 1
"""Raised whenever an older reader would misread what is written."""
MANIFEST = "manifest.json"
SEAL = "manifest.sha256"
FILES = ("model.safetensors", "golden.json", *dataset_files.FILES)
"""Every file of a bundle but the manifest and its seal."""

Builder = Callable[[str], Recommender]
"""An empty recommender by the name of its model, ready for ``load_state``."""


@dataclass(frozen=True)
class Bundle:
    """A recommender and what it may be asked about.

    dataset: every event known when the bundle was written. recommender: its own dataset holds the events it learnt
    from, of the same users and items.
    """

    path: Path
    recommender: Recommender
    dataset: Dataset
    manifest: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration, as the table it was written as."""
        return dict(self.manifest["config"])

    def verify(self) -> int:
        """Ask the golden requests again; returns how many there are.

        Raises:
            BundleError: an answer differs from the one stored.
        """
        golden = json.loads((self.path / "golden.json").read_bytes())
        return check_golden(self.recommender, self.dataset, golden, self.path)


def write_bundle(
    path: Path | str,
    recommender: Recommender,
    *,
    dataset: Dataset,
    fitted: NDArray[np.bool_],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Path:
    """Write a folder that ``load_bundle`` reads; an older bundle there is replaced at the very end.

    Args:
        path: the folder.
        recommender: fitted.
        dataset: all known events.
        fitted: bool ``[E]``: those that ``recommender`` learnt from.
        config: the run's effective configuration, the model's name under ``model``; JSON can hold it.
        metrics: what the evaluation found; JSON can hold it.

    Raises:
        StorageError: the disk refused; what stood there before still stands.
    """
    path = Path(path)
    arrays, settings = recommender.state()
    files, facts = dataset_files.pack_dataset(dataset, fitted)
    files["model.safetensors"] = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    files["golden.json"] = _json(ask_golden(recommender, dataset))
    manifest = {
        "schema": SCHEMA,
        "lanner": lanner.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": {"name": config["model"], "settings": settings},
        "config": dict(config),
        "metrics": dict(metrics),
        "dataset": {
            "fingerprint": fingerprint(dataset),
            "users": dataset.num_users,
            "items": dataset.num_items,
            "events": len(dataset.interactions),
            **facts,
        },
        "sha256": {name: digest(content) for name, content in files.items()},
    }
    sealed = _json(manifest)
    write_folder(path, {**files, MANIFEST: sealed, SEAL: digest(sealed).encode()}, replaceable=MANIFEST)
    return path


def load_bundle(path: Path | str, builder: Builder) -> Bundle:
    """Read a bundle; every byte is checked before any is used.

    Args:
        path: the folder.
        builder: gives the empty recommender to fill; ``pipeline.open_bundle`` has one for every model.

    Raises:
        BundleError: no bundle there, one of another schema, or a damaged file, which is named.
    """
    path = Path(path)
    manifest = read_manifest(path)
    files = {name: read_checked(path / name, manifest["sha256"][name]) for name in FILES}
    dataset, fitted = dataset_files.unpack_dataset(files, manifest["dataset"])
    learnt_from = dataset.with_interactions(dataset.interactions.take(fitted))
    model = manifest["model"]
    arrays = load(files["model.safetensors"])
    try:
        recommender = builder(model["name"]).load_state(arrays, model["settings"], learnt_from)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        # Intact, so written by a version whose models kept other arrays or settings.
        written = manifest["lanner"]
        raise BundleError(f"{path}: its model, of lanner {written}, cannot be read by {lanner.__version__}") from error
    return Bundle(path, recommender, dataset, manifest)


def read_catalogue(path: Path) -> tuple[Dataset, Mapping[str, Any], Mapping[str, Any]]:
    """What a service needs of a bundle beside its ladder: every known event, the golden requests, the manifest.

    Raises:
        BundleError: no bundle there, one of another schema, or a damaged file, which is named.
    """
    manifest = read_manifest(path)
    names = ("golden.json", *dataset_files.FILES)
    files = {name: read_checked(path / name, manifest["sha256"][name]) for name in names}
    dataset, _ = dataset_files.unpack_dataset(files, manifest["dataset"])
    return dataset, json.loads(files["golden.json"]), manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        BundleError: there is none, it is damaged, or of another schema.
    """
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: no bundle there (no {MANIFEST}); write one with: lanner run --out {path}")
    try:
        seal = (path / SEAL).read_text(encoding="ascii")
        manifest = json.loads(read_checked(path / MANIFEST, seal))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / SEAL}: damaged or missing ({error}); write the bundle anew") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        found = manifest.get("schema") if isinstance(manifest, dict) else None
        raise BundleError(f"{path}: schema {found}, this version of lanner reads {SCHEMA}; write the bundle anew")
    return manifest


def _json(table: Mapping[str, Any]) -> bytes:
    """Raises ``LannerError`` where a model's settings are no JSON: a fault of that model."""
    try:
        return json.dumps(table, ensure_ascii=False, indent=1).encode()
    except TypeError as error:
        raise LannerError(f"settings or metrics that JSON cannot hold: {error}") from error
