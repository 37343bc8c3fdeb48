"""Model results: recommendation frames and explanations, with notebook rendering."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import polars as pl

from lanner.data.frames import empty, to_frame
from lanner.data.interactions import FrameKind
from lanner.inference.explain import Reason

SHOWN_ROWS = 50
"""Rows whose contributions are kept for a notebook."""
_SHOWN_PARTS = 3
_IDENTIFYING = ("user_id", "item_id", "rank", "score")
_POSITIVE, _NEGATIVE = "#4c78a8", "#e45756"
_CELL = "text-align:left;padding:2px 10px 2px 0;vertical-align:top"


@dataclass(frozen=True)
class Notes:
    """Notes on a recommendation frame beyond its columns.

    unknown: unknown ids and attribute values; they had no effect. fallback: users without data that the model uses, so
    popular items were recommended. text_ignored: texts were given, but the model does not use them.
    """

    unknown: tuple[str, ...] = ()
    fallback: tuple[Any, ...] = ()
    text_ignored: bool = False

    def __iter__(self) -> Any:
        """The notes in words, one line each."""
        if self.unknown:
            yield f"unknown ids or attributes were ignored: {shorten(self.unknown)}"
        if self.text_ignored:
            yield "the model does not use texts; they had no effect"
        if self.fallback:
            yield f"nothing the model uses is known about some users; they get popular items: {shorten(self.fallback)}"


@dataclass(frozen=True)
class ItemExplanation:
    """Why an item has its score for a user.

    parts: contributions, largest first; their values add up to ``score``. fallback, text_ignored: as in ``Notes``.
    """

    item_id: str | int
    title: str
    score: float
    parts: tuple[Reason, ...]
    sentence: str
    unknown: tuple[str, ...] = ()
    fallback: bool = False
    text_ignored: bool = False

    def __str__(self) -> str:
        return self.sentence

    def to_frame(self, kind: FrameKind = "polars") -> Any:
        """A frame of the contributions: kind, name, value."""
        return to_frame(
            {name: [getattr(part, name) for part in self.parts] for name in ("kind", "name", "value")}, kind
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-compatible values."""
        return {**vars(self), "parts": [vars(part) for part in self.parts], "unknown": list(self.unknown)}

    def _repr_html_(self) -> str:
        largest = max((abs(part.value) for part in self.parts), default=0.0)
        rows = [
            f"<tr><td style='{_CELL}'>{escape(part.kind)}</td><td style='{_CELL}'>{escape(part.name)}</td>"
            f"<td style='{_CELL}'>{_bar(part.value, largest)}</td></tr>"
            for part in self.parts
        ]
        head = f"<strong>{escape(self.title)}</strong> · score {self.score:z.4f}<br>{escape(self.sentence)}"
        return f"<div>{head}<table style='border-collapse:collapse'>{''.join(rows)}</table></div>"


def recommendations(
    columns: dict[str, Any], kind: FrameKind, notes: Notes, parts: Sequence[Sequence[Reason]] = ()
) -> Any:
    """A frame with ``notes``; those of Polars and pandas show contributions in a notebook.

    parts: the contributions of the first ``SHOWN_ROWS`` rows; empty: not shown.
    """
    if kind == "arrow":
        return to_frame(columns, kind)
    if kind == "pandas":
        frame = _pandas_class()(columns)
    else:
        frame = _PolarsRecommendations(columns, schema_overrides={n: pl.String for n, v in columns.items() if empty(v)})
    frame.notes, frame.contributions = notes, tuple(parts)
    frame.explained_rows = _rows_of(frame, len(parts))
    return frame


def _rows_of(frame: Any, number: int) -> list[tuple[Any, ...]]:
    """Values that identify the first rows of a frame; empty if a column is missing."""
    if not set(_IDENTIFYING) <= set(frame.columns):
        return []
    columns = [frame[name].head(number).to_numpy().tolist() for name in _IDENTIFYING]
    return list(zip(*columns, strict=True))


def _is_unchanged(frame: Any) -> bool:
    """Whether the contributions still belong to the first rows: a frame may have been changed in place."""
    return bool(frame.contributions) and _rows_of(frame, len(frame.contributions)) == frame.explained_rows


class _PolarsRecommendations(pl.DataFrame):
    """A ``polars.DataFrame`` that shows its contributions; derived frames are plain."""

    notes = Notes()
    contributions: tuple[Sequence[Reason], ...] = ()
    explained_rows: Sequence[tuple[Any, ...]] = ()

    def _repr_html_(self, *, _from_series: bool = False) -> str:
        if not _is_unchanged(self):
            return super()._repr_html_(_from_series=_from_series)
        return _table(self.columns, self.head(len(self.contributions)).rows(), self.height, self.contributions)


@cache
def _pandas_class() -> Any:
    import pandas as pd

    class PandasRecommendations(pd.DataFrame):  # type: ignore[misc,unused-ignore]
        """A ``pandas.DataFrame`` that shows its contributions; derived frames are plain."""

        _metadata = ("notes", "contributions", "explained_rows")
        notes = Notes()
        contributions: tuple[Sequence[Reason], ...] = ()
        explained_rows: Sequence[tuple[Any, ...]] = ()

        @property
        def _constructor(self) -> Any:
            return pd.DataFrame

        def __reduce_ex__(self, protocol: Any) -> Any:  # pickled as a plain frame
            return pd.DataFrame, (pd.DataFrame(self),)

        def _repr_html_(self) -> Any:
            if not _is_unchanged(self):
                return super()._repr_html_()
            shown = self.head(len(self.contributions)).itertuples(index=False, name=None)
            return _table(list(self.columns), list(shown), len(self), self.contributions)

    return PandasRecommendations


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], height: int, contributions: Sequence[Sequence[Reason]]
) -> str:
    head = "".join(f"<th style='{_CELL}'>{escape(name)}</th>" for name in (*columns, "contributions"))
    body = []
    for row, parts in zip(rows, contributions, strict=True):
        cells = [f"{cell:z.4f}" if isinstance(cell, float) else str(cell) for cell in row]
        largest = max((abs(part.value) for part in parts), default=0.0)
        bars = "".join(f"<div>{_bar(part.value, largest)} {escape(part.name)}</div>" for part in parts[:_SHOWN_PARTS])
        line = "".join(f"<td style='{_CELL}'>{escape(cell)}</td>" for cell in cells)
        body.append(f"<tr>{line}<td style='{_CELL}'>{bars}</td></tr>")
    more = f"<div>{height - len(rows):,} more rows</div>" if height > len(rows) else ""
    return f"<div><table style='border-collapse:collapse'><tr>{head}</tr>{''.join(body)}</table>{more}</div>"


def _bar(value: float, largest: float) -> str:
    """A bar scaled to the largest contribution, and the value."""
    width = round(80 * abs(value) / largest) if largest else 0
    colour = _POSITIVE if value >= 0 else _NEGATIVE
    bar = f"display:inline-block;height:9px;width:{width}px;background:{colour}"
    return f"<span style='{bar}'></span> {value:+z.4f}"


def shorten(values: Sequence[Any]) -> str:
    """The first five of some values, and the number of the others."""
    shown = ", ".join(map(str, values[:5]))
    return f"{shown} and {len(values) - 5:,} more" if len(values) > 5 else shown
