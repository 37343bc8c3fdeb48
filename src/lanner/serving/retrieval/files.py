"""An index as a folder: mapped rather than read, so that it is there at once and processes share its pages.

``index.json`` tells how the index was made and carries a SHA-256 of every other file, ``index.sha256`` its own. Every
byte is checked before any is used; nothing is executed.
"""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.files import check_file, digest, read_checked, write_folder
from lanner.errors import BundleError
from lanner.serving.retrieval.candidates import Cells, Graph, import_faiss
from lanner.serving.retrieval.fresh import Fresh
from lanner.serving.retrieval.index import Index
from lanner.serving.retrieval.plan import Measured, Plan, RetrievalConfig
from lanner.serving.retrieval.snapshot import Base, Snapshot
from lanner.serving.retrieval.vectors import FloatVectors, Int8Vectors, Vectors

SCHEMA = 4
"""Raised whenever an older reader would misread what is written."""
MANIFEST = "index.json"
SEAL = "index.sha256"
STRUCTURE = "candidates.faiss"
_MAPPED = {"vectors", "codes", "scales"}
"""Arrays that are large and never empty unless the index is."""


def write_index(path: Path, snapshot: Snapshot, config: RetrievalConfig) -> None:
    """Write a folder that ``load_index`` reads; the files are held in memory until they are written.

    Raises:
        StorageError: the disk refused; what stood there before still stands.
    """
    base = snapshot.base
    arrays: dict[str, NDArray[Any]] = {
        "alive": snapshot.alive,
        "fresh_rows": snapshot.fresh.row_F,
        "fresh_vectors": snapshot.fresh.vectors_FD,
    }
    if base.row_P is not None:
        arrays["rows"] = base.row_P
    if not isinstance(base.candidates, Graph):
        arrays |= base.vectors.arrays
    files = {f"{name}.npy": _npy(array) for name, array in arrays.items()}
    if base.candidates is not None:
        files[STRUCTURE] = import_faiss("saving an index").serialize_index(base.candidates.index).tobytes()
    manifest = {
        "schema": SCHEMA,
        "config": asdict(config),
        "plan": asdict(base.plan),
        "effort": snapshot.effort,
        "num_rows": snapshot.num_rows,
        "measured": None if snapshot.measured is None else asdict(snapshot.measured),
        "sha256": {name: digest(content) for name, content in files.items()},
    }
    sealed = json.dumps(manifest, indent=1).encode()
    write_folder(path, {**files, MANIFEST: sealed, SEAL: digest(sealed).encode()}, replaceable=MANIFEST)


def load_index(path: Path | str) -> Index:
    """Map an index that ``Index.save`` wrote.

    Raises:
        BundleError: no index there, one of another schema, or a damaged file, which is named.
        MissingExtraError: the structure needs faiss, which is not installed.
    """
    path = Path(path)
    for name, expected in _read_manifest(path)["sha256"].items():
        check_file(path / name, expected, "index")
    return mapped_index(path)


def mapped_index(path: Path) -> Index:
    """As ``load_index`` for an index that was written a moment ago: its bytes are not checked, which takes long."""
    manifest = _read_manifest(path)
    arrays: dict[str, NDArray[Any]] = {
        Path(name).stem: np.load(path / name, mmap_mode="r" if Path(name).stem in _MAPPED else None, allow_pickle=False)
        for name in manifest["sha256"]
        if name != STRUCTURE
    }
    plan = Plan(**manifest["plan"])
    candidates: Graph | Cells | None = None
    if plan.kind in ("hnsw", "ivf-pq"):
        faiss = import_faiss(f"reading an index of kind {plan.kind}")
        structure = faiss.read_index(str(path / STRUCTURE), faiss.IO_FLAG_MMAP_IFC)
        candidates = Graph(structure) if plan.kind == "hnsw" else Cells(structure)
    vectors: Vectors
    if isinstance(candidates, Graph):
        vectors = candidates.vectors
    elif plan.precision == "int8":
        vectors = Int8Vectors(*(arrays[name] for name in ("codes", "scales", "wide", "wide_numbers")))
    else:
        vectors = FloatVectors(arrays["vectors"])
    snapshot = Snapshot(
        Base(plan, vectors, candidates, arrays.get("rows")),
        manifest["effort"],
        arrays["alive"],
        Fresh(arrays["fresh_rows"], arrays["fresh_vectors"]),
        manifest["num_rows"],
        None if manifest["measured"] is None else Measured(**manifest["measured"]),
    )
    return Index(snapshot, RetrievalConfig(**manifest["config"]))


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: no index there (no {MANIFEST}); write one with Index.save")
    try:
        manifest: dict[str, Any] = json.loads(read_checked(path / MANIFEST, (path / SEAL).read_text(encoding="ascii")))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path / SEAL}: damaged or missing ({error}); write the index anew") from None
    if manifest["schema"] != SCHEMA:
        raise BundleError(
            f"{path}: schema {manifest['schema']}, this version of lanner reads {SCHEMA}; write the index anew"
        )
    return manifest


def _npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
