"""Statistics of a dataset, and its fingerprint."""

import hashlib
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.data.catalogue import Catalogue
from lanner.data.interactions import EVENT_COLUMNS, Dataset, Interactions
from lanner.data.ragged import Ragged

_QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Counts, density, degrees, coverage of texts and ties, time span, rejected rows and warnings, as JSON values.

    Sections: ``counts``, ``degrees``, ``texts``, ``ties``, ``links``, ``attributes``, ``events``, ``unread``,
    ``rejected``, ``warnings``, ``fingerprint``. ``unread``: columns of the events that are not read.
    A section without data is None.
    """
    return {
        "counts": _counts(dataset),
        "degrees": {
            "user": _quantiles(np.bincount(dataset.interactions.user, minlength=dataset.num_users)),
            "item": _quantiles(np.bincount(dataset.interactions.item, minlength=dataset.num_items)),
        },
        "texts": {"user": _texts(dataset.user_catalogue), "item": _texts(dataset.item_catalogue)},
        "ties": None if dataset.ties is None else _ties(dataset.ties),
        "links": None if dataset.links is None else {"count": len(dataset.links.values)},
        "attributes": {"user": _attributes(dataset.user_catalogue), "item": _attributes(dataset.item_catalogue)},
        "events": _events(dataset.interactions, dataset.has_order),
        "unread": list(dataset.unread),
        "rejected": dict(dataset.rejected),
        "warnings": list(dataset.warnings),
        "fingerprint": fingerprint(dataset),
    }


def fingerprint(dataset: Dataset) -> str:
    """BLAKE2b over ids, events, texts, attributes, ties and links: 32 hexadecimal digits, equal for equal content."""
    digest = hashlib.blake2b(digest_size=16)
    for names in (dataset.users.external, dataset.items.external):
        _add_texts(digest, names)
    for array in _arrays(dataset):
        digest.update(b"-" if array is None else f"{array.dtype.str}{array.shape}".encode())
        digest.update(b"" if array is None else np.ascontiguousarray(array).data)
    _add_texts(digest, (*dataset.interactions.behaviours, "", *dataset.interactions.partitions, str(dataset.has_order)))
    for catalogue in (dataset.user_catalogue, dataset.item_catalogue):
        _add_texts(digest, catalogue.texts)
        _add_texts(digest, catalogue.titles)
        for name, attribute in sorted(catalogue.attributes.items()):
            _add_texts(digest, (name, *attribute.names))
    return digest.hexdigest()


def _arrays(dataset: Dataset) -> list[NDArray[Any] | None]:
    arrays: list[NDArray[Any] | None] = [getattr(dataset.interactions, name) for name in EVENT_COLUMNS]
    held = [
        one.codes for c in (dataset.user_catalogue, dataset.item_catalogue) for _, one in sorted(c.attributes.items())
    ]
    edges = [one for one in (dataset.ties, dataset.links) if one is not None]
    for lists in edges + held:
        arrays += [lists.indptr, lists.values]
    return arrays


def _add_texts(digest: hashlib.blake2b, texts: tuple[str, ...]) -> None:
    """Lengths first: otherwise ("ab", "c") and ("a", "bc") would have the same hash."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    digest.update(np.array([len(encoded), *map(len, encoded)], np.int64).data)
    digest.update(b"".join(encoded))


def _counts(dataset: Dataset) -> dict[str, Any]:
    events = dataset.interactions
    pairs = len(np.unique(events.user.astype(np.int64) * max(dataset.num_items, 1) + events.item))
    cells = dataset.num_users * dataset.num_items
    return {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": len(events),
        "distinct_pairs": pairs,
        "repeated_interactions": len(events) - pairs,
        "density": pairs / cells if cells else 0.0,
    }


def _quantiles(values: NDArray[Any]) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    found = {name: float(np.quantile(values, at)) for name, at in _QUANTILES.items()}
    return {**found, "mean": float(values.mean()), "zero": int((values == 0).sum())}


def _texts(catalogue: Catalogue) -> dict[str, Any] | None:
    lengths = np.array([len(text) for text in catalogue.texts if text], np.int64)
    if len(lengths) == 0:
        return None
    return {"coverage": len(lengths) / len(catalogue.texts), "characters": _quantiles(lengths)}


def _ties(ties: Ragged) -> dict[str, Any]:
    tied = np.union1d(np.flatnonzero(ties.lengths), ties.values)
    return {
        "count": len(ties.values),
        "user_coverage": len(tied) / len(ties) if len(ties) else 0.0,
        "friends": _quantiles(ties.lengths),
    }


def _attributes(catalogue: Catalogue) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "values": len(one.names),
            "links": len(one.codes.values),
            "coverage": float((one.codes.lengths > 0).mean()) if len(one.codes) else 0.0,
        }
        for name, one in catalogue.attributes.items()
    }


def _events(events: Interactions, has_order: bool) -> dict[str, Any]:
    times, weights = events.timestamp, events.weight
    return {
        "ordered": has_order,
        "first": None if times is None or len(times) == 0 else _date(times.min()),
        "last": None if times is None or len(times) == 0 else _date(times.max()),
        "weights": None if weights is None else _quantiles(weights[np.isfinite(weights)]),
        "behaviours": _per_name(events.behaviour, events.behaviours, len(events)),
        "partitions": _per_name(events.partition, events.partitions, 0),
    }


def _per_name(codes: NDArray[np.uint8] | None, names: tuple[str, ...], otherwise: int) -> dict[str, int]:
    if codes is None:
        return dict.fromkeys(names, otherwise)
    return dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))


def _date(nanoseconds: np.int64) -> str:
    """ISO time in UTC, to the second."""
    return datetime.fromtimestamp(int(nanoseconds) // 1_000_000_000, UTC).isoformat()


def example_users(dataset: Dataset, number: int) -> list[str]:
    """Ids of a few users with a history, evenly spread over the dataset."""
    known = np.flatnonzero(dataset.histories.lengths)
    if not len(known):
        return []
    places = np.linspace(0, len(known) - 1, min(number, len(known))).round().astype(np.int64)
    return [dataset.users.external[row] for row in known[places]]
