"""Datasets to and from RecTools, as the frames that ``rectools.dataset.Dataset.construct`` takes.

RecTools needs an older NumPy than Lanner, so the two may not fit into one environment; then exchange frames as Parquet
files. Columns: https://rectools.readthedocs.io (``rectools.Columns``).
"""

from typing import Any

import numpy as np

from lanner.data.catalogue import Catalogue
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset
from lanner.errors import ConfigError, optional_module


def to_rectools(dataset: Dataset) -> dict[str, Any]:
    """Arguments of ``rectools.dataset.Dataset.construct``, as pandas frames.

    ``interactions_df``: user_id, item_id, weight, datetime. Negative feedback (confidence 0) is left out: RecTools
    has none; the weight is the confidence, or 1. Without timestamps, ``datetime`` is the order of events, in seconds
    since 1970. ``user_features_df``, ``item_features_df``: id, feature, value of attributes, if any.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    pd = optional_module("pandas", "pandas", "rectools", "frames for RecTools")
    events = dataset.interactions
    confidence = np.ones(len(events), np.float32) if events.confidence is None else events.confidence
    kept = confidence > 0
    times = np.arange(len(events)) * 1_000_000_000 if events.timestamp is None else events.timestamp
    frame = pd.DataFrame(
        {
            "user_id": dataset.users.ids(events.user[kept].tolist()),
            "item_id": dataset.items.ids(events.item[kept].tolist()),
            "weight": confidence[kept],
            "datetime": pd.to_datetime(times[kept], unit="ns"),
        }
    )
    found: dict[str, Any] = {"interactions_df": frame}
    known = {"user": set(frame["user_id"]), "item": set(frame["item_id"])}  # RecTools rejects features of others
    for side, ids, catalogue in (
        ("user", dataset.users, dataset.user_catalogue),
        ("item", dataset.items, dataset.item_catalogue),
    ):
        if catalogue.attributes:
            features = pd.DataFrame(_features(ids, catalogue), columns=["id", "feature", "value"])
            found[f"{side}_features_df"] = features[features["id"].isin(known[side])].reset_index(drop=True)
            found[f"cat_{side}_features"] = list(catalogue.attributes)
    return found


def from_rectools(interactions: Any, items: Any = None, users: Any = None, **named: Any) -> Dataset:
    """A dataset from RecTools interactions.

    Args:
        interactions: a frame with user_id, item_id, weight and datetime, or a ``rectools.dataset.Dataset``.
        items, users, named: as in ``Dataset.from_frames``: texts and attributes, which RecTools features lack.

    Raises:
        ConfigError: neither. DataError: as ``Dataset.from_frames``.
    """
    if hasattr(interactions, "get_raw_interactions"):
        interactions = interactions.get_raw_interactions()
    if not hasattr(interactions, "columns"):
        kind = type(interactions).__name__
        raise ConfigError(f"expected a frame of interactions, or a RecTools dataset, received {kind}")
    columns = {"user": "user_id", "item": "item_id", "rating": "weight", "time": "datetime"}
    present = {role: column for role, column in columns.items() if column in interactions.columns}
    # A RecTools weight is a confidence, never a dislike.
    given = {"positive_threshold": "none" if "weight" not in interactions.columns else 0.0} | present | named
    return Dataset.from_frames(interactions, items=items, users=users, **given)


def _features(ids: IdMap, catalogue: Catalogue) -> list[tuple[Any, str, str]]:
    """One row per user or item and value."""
    return [
        (ids.ids([row])[0], name, attribute.names[code])
        for name, attribute in catalogue.attributes.items()
        for row, code in zip(attribute.codes.row_of_value.tolist(), attribute.codes.values.tolist(), strict=True)
    ]
