"""Retrieval indexes of large catalogs, built once and cached in the user's cache folder; bundles are read-only.

The folder is ``LANNER_CACHE``, else the platform's cache directory. Workers that open the same variant build it once.
"""

import fcntl
import logging
import os
from pathlib import Path

import numpy as np
import platformdirs

from lanner.data.interactions import Dataset
from lanner.errors import BundleError, StorageError
from lanner.files import digest
from lanner.inference.retrieval import EXACT_ITEMS, SCHEMA, RetrievalConfig, VectorIndex, build_index
from lanner.inference.scoring_model import ScoringModel
from lanner.inference.tables import take

_TUNING_USERS = 256
_log = logging.getLogger(__name__)


def cached_index(
    model: ScoringModel, name: str, dataset: Dataset, retrieved: int, config: RetrievalConfig | None = None
) -> VectorIndex | None:
    """The retrieval index of a model's items; None: the ranker scans all items.

    Args:
        model: a variant's scoring model.
        name: bundle version and variant.
        dataset: its users provide the sample queries.
        retrieved: number of candidates per search.
        config: retrieval settings.
    """
    config = config or RetrievalConfig()
    if not model.dimensions or config.kind == "exact" or (config.kind == "auto" and model.num_items < EXACT_ITEMS):
        return None
    key = digest(f"{SCHEMA} {name} {retrieved} {config}".encode())[:32]
    folder = Path(os.environ.get("LANNER_CACHE") or platformdirs.user_cache_dir("lanner")) / "indexes" / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            try:
                return VectorIndex.load(folder)
            except BundleError:
                index = _built(model, dataset, retrieved, config)
                index.save(folder)
                return VectorIndex.load(folder)  # memory-mapped, shared by the workers
    except (OSError, StorageError) as error:
        _log.warning("the index is not cached: %s", error)
        return _built(model, dataset, retrieved, config)


def _built(model: ScoringModel, dataset: Dataset, retrieved: int, config: RetrievalConfig) -> VectorIndex:
    known = np.flatnonzero(dataset.histories.lengths)
    users = np.sort(np.random.default_rng(0).permutation(known)[:_TUNING_USERS])
    queries = None
    if len(users):
        queries = np.hstack([model.users(dataset.user_batch(users)), np.ones((len(users), 1), np.float32)])
    return build_index(np.hstack([take(model.target_ID), model.bias_I[:, None]]), config, queries, retrieved)
