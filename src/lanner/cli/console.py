"""Output of the command line: results on stdout, as tables or JSON; everything else on stderr."""

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Default width in columns without a terminal."""


class Stages:
    """Prints each stage that starts, and the elapsed seconds, on stderr."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def __call__(self, stage: str) -> None:
        print(f"{time.perf_counter() - self._started:7.1f} s  {stage}", file=sys.stderr, flush=True)


def complain(problem: str) -> None:
    """A problem or a note on stderr, in one line."""
    print(f"lanner: {' '.join(problem.split())}", file=sys.stderr)


def show_json(value: Any) -> None:
    """One JSON document on stdout; figures that JSON lacks (NaN, infinity) become null."""
    print(json.dumps(_plain(value), ensure_ascii=False, indent=1))


def show_result(facts: Mapping[str, Any], line: str, *, as_json: bool) -> None:
    """The facts as JSON, or as one line."""
    if as_json:
        show_json(facts)
    else:
        show_line(line)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table on stdout; numbers are right-aligned."""
    from rich.table import Table  # only commands with tables need it

    listed = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold")
    for place, column in enumerate(columns):
        numeric = all(isinstance(row[place], int | float) or row[place] == "" for row in listed)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*(_cell(value) for value in row))
    _stdout().print(table)


def show_items(title: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Recommended items as a table, one column per field."""
    columns = list(items[0]) if items else ["rank", "item", "title", "score"]
    show_table(
        title, columns, [[str(value) if name == "item" else value for name, value in item.items()] for item in items]
    )


def show_line(text: str) -> None:
    """A line of text on stdout, verbatim."""
    _stdout().print(text, markup=False, highlight=False, soft_wrap=True)


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Nested facts as a table of dotted names and values; None and empty tables are left out."""
    show_table(title, ("what", "value"), [(name, _cell(value)) for name, value in _flat(facts, "")])


def as_toml(value: Any) -> str:
    """A setting's value in the syntax of TOML and ``--set KEY=``; empty if it has none."""
    if value is None:
        return ""
    return json.dumps(_plain(value), ensure_ascii=False)


def duration(seconds: float) -> str:
    """A duration in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _flat(facts: Mapping[str, Any], place: str) -> Iterable[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{place}{name}.")
        elif value is not None:
            yield f"{place}{name}".replace("_", " "), value


def _cell(value: Any) -> str:
    """The text of a cell; rich markup, which titles may contain, is escaped."""
    if isinstance(value, float):
        # "z": a value that rounds to zero has no sign.
        return f"{value:z,.4f}" if abs(value) < 1000 and value != int(value) else f"{value:z,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("[", r"\[")


def _stdout() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value
