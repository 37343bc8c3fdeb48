"""The commands that query a bundle: recommend, similar, explain."""

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lanner.cli import console, options
from lanner.errors import RequestError, nearest

if TYPE_CHECKING:
    import polars as pl

    from lanner.library import Model
    from lanner.library.results import ItemExplanation

EXPLAINED_PARTS = 10
"""Maximum number of parts of a score shown; JSON has them all."""

ItemId = Annotated[str, typer.Option("--item", help="Id of an item.")]


def recommend(
    bundle: options.BundlePath,
    user: options.User = None,
    history: options.History = None,
    history_file: options.HistoryFile = None,
    text: options.QueryText = None,
    attributes: options.UserAttributes = None,
    filters: options.Filters = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also recommend items that the user has interacted with.")
    ] = False,
    k: options.TopK = 10,
    as_json: options.AsJson = False,
) -> None:
    """Recommend items to a user of the dataset, or to an anonymous user from a history, a text, attributes, or several.

    Unknown ids and attributes are reported and ignored. If nothing is known about a user, the most popular items are
    recommended.

    \b
    Examples:
      lanner recommend lanner-bundle --user 42
      lanner recommend lanner-bundle --history 1,260,1196 -k 5 --json
      lanner recommend lanner-bundle --text "slow science fiction" --filter genres=Drama --filter genres=Sci-Fi
      lanner recommend lanner-bundle --history "Bed, double" --history "Lamp, red"
      lanner recommend lanner-bundle --attribute sex=F --attribute birth_year=1984
    """
    model, wanted = _loaded(bundle), parse_values(filters, "--filter")
    arguments = _user_arguments(model, user, history, history_file, text, attributes)
    with without_warnings():
        frame = model.recommend(**_plural_arguments(arguments), k=k, filters=wanted, exclude_seen=not include_seen)
    notes = {
        "unknown": list(frame.notes.unknown),
        "fallback": bool(frame.notes.fallback),
        "text_ignored": frame.notes.text_ignored,
    }
    _report_ignored(**notes, misses=missed_values(model, wanted))
    if as_json:
        console.show_json({"items": listed(frame), **notes})
    else:
        heading = f"For user {arguments['user']}" if user else "For an anonymous user"
        console.show_items(heading, listed(frame))


def similar(
    bundle: options.BundlePath,
    item: ItemId,
    filters: options.Filters = None,
    k: options.TopK = 10,
    as_json: options.AsJson = False,
) -> None:
    """List the items most similar to an item.

    \b
    Examples:
      lanner similar lanner-bundle --item 260
      lanner similar lanner-bundle --item 260 --filter genres=Drama -k 3 --json
    """
    from lanner.artifacts.variants import POPULARITY

    (item,) = _requested([item], "--item")
    model, wanted = _loaded(bundle), parse_values(filters, "--filter")
    with without_warnings():
        frame = model.similar_items([item], k, filters=wanted)
    fallback = bool(frame.notes.fallback)
    _report_ignored(fallback=fallback, misses=missed_values(model, wanted))
    if as_json:
        console.show_json({"items": listed(frame), "fallback": fallback})
    else:
        title = model.dataset.item_catalogue.titles[model.dataset.items.row(item)]
        heading = "Popular items, not similar ones" if model.name == POPULARITY else f"Similar to {title}"
        console.show_items(heading, listed(frame))


def explain(
    bundle: options.BundlePath,
    item: ItemId,
    user: options.User = None,
    history: options.History = None,
    history_file: options.HistoryFile = None,
    text: options.QueryText = None,
    attributes: options.UserAttributes = None,
    as_json: options.AsJson = False,
) -> None:
    """Explain the score of an item for a user: the contributions that add up to it, and a sentence.

    \b
    Examples:
      lanner explain lanner-bundle --user 42 --item 260
      lanner explain lanner-bundle --history 1,1196 --item 260 --json
    """
    (item,) = _requested([item], "--item")
    model = _loaded(bundle)
    found = model.explain(item=item, **_user_arguments(model, user, history, history_file, text, attributes))
    _report_ignored(
        found.unknown, fallback=found.fallback, text_ignored=found.text_ignored, so="the score is the same for everyone"
    )
    if as_json:
        facts = found.to_dict()
        console.show_json({"item": facts.pop("item_id"), **facts})
        return
    columns = ("kind", "name", "contribution")
    console.show_table(f"{found.title}: score {found.score:z.4f}", columns, _top_contributions(found))
    console.show_line(found.sentence)


def listed(frame: "pl.DataFrame") -> list[dict[str, Any]]:
    """Recommended items of a library frame: rank, item, title, score and, if present, reason."""
    names = {"rank": "rank", "item_id": "item", "title": "title", "score": "score", "because": "reason"}
    return [{ours: row[name] for name, ours in names.items() if name in row} for row in frame.to_dicts()]


def _loaded(path: Path) -> "Model":
    from lanner.library import load

    return load(path)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress library warnings about what the commands report themselves, in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _user_arguments(
    model: "Model",
    user: str | None,
    history: Sequence[str] | None,
    file: str | None,
    text: str | None,
    attributes: Sequence[str] | None,
) -> dict[str, Any]:
    """The user (or an anonymous user's history), text and attributes as arguments of ``Model.explain``.

    Raises:
        RequestError: none of them, two that exclude each other, or an empty id.
    """
    user = None if user is None else _requested([user], "--user")[0]
    ids, described = _ids(model, history, file), parse_values(attributes, "--attribute") or None
    if user is None and ids is None and text is None and described is None:
        raise RequestError("one of --user, --history, --history-file, --text or --attribute is required")
    if user is not None and ids is not None:
        raise RequestError("--user and a history exclude each other: the history of a user is known")
    return {"user": user, "history": ids, "text": text, "attributes": described}


def _plural_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The same as arguments of ``Model.recommend``, which takes several users."""
    names = {"user": "users", "history": "histories", "text": "texts", "attributes": "attributes"}
    return {names[name]: [value] for name, value in arguments.items() if value is not None}


def _requested(ids: Sequence[str], option: str) -> list[str]:
    from lanner.data.ids import requested_ids  # imports NumPy, which --help must not

    return requested_ids(ids, option)


def _ids(model: "Model", history: Sequence[str] | None, file: str | None) -> list[str] | None:
    """Item ids of ``--history`` (each value where it is repeated or an id itself, else a list with commas) or of the
    file, one per line; None where neither is given.

    Raises:
        RequestError: both are given, the file cannot be read, or an id is empty.
    """
    if file is not None:
        if history is not None:
            raise RequestError("--history and --history-file exclude each other; give one of them")
        try:
            lines = (sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            problem = getattr(error, "strerror", None) or "not UTF-8"
            raise RequestError(f"--history-file {file}: cannot be read ({problem})") from None
        return [line.strip() for line in lines if line.strip()]
    if history is None:
        return None
    if len(history) > 1 or history[0] in model.dataset.items:
        return _requested(history, "--history")
    return [one.strip() for one in history[0].split(",") if one.strip()]


def parse_values(given: Sequence[str] | None, option: str) -> dict[str, list[str]]:
    """Values by attribute; raises ``RequestError`` for an option that is not ``NAME=VALUE``."""
    found: dict[str, list[str]] = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise RequestError(f"{option} '{one}' is not NAME=VALUE, such as genres=Drama")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def missed_values(model: "Model", filters: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each filter value that no item has, with the nearest existing one."""
    found = []
    for name, values in filters.items():
        known = {str(one).casefold(): str(one) for one in model.dataset.item_catalogue.attributes[name].names}
        for value in values:
            near = nearest(value.casefold(), known)
            if near is None or known[near] != value:
                advice = f"; did you mean '{known[near]}'?" if near else ""
                found.append(f"no item has {name}={value}{advice}")
    return found


def _report_ignored(
    unknown: Sequence[str] = (),
    *,
    fallback: bool = False,
    text_ignored: bool = False,
    misses: Sequence[str] = (),
    so: str = "these are popular items",
) -> None:
    """Report in one line on stderr which parts of a request had no effect."""
    notes = [f"unknown ids or attributes were ignored: {', '.join(unknown)}"] if unknown else []
    notes += [options.TEXT_IGNORED] if text_ignored else []
    notes += [f"nothing the model uses is known about the user: {so}"] if fallback else []
    notes += misses
    if notes:
        console.complain("; ".join(notes))


def _top_contributions(found: "ItemExplanation") -> list[tuple[str, str, float]]:
    """The largest contributions, the total of the others, and the sum."""
    weighty = sorted(found.parts, key=lambda part: -abs(part.value))
    rows: list[tuple[str, str, float]] = [(part.kind, part.name, part.value) for part in weighty[:EXPLAINED_PARTS]]
    others = [part.value for part in weighty[EXPLAINED_PARTS:]]
    if others:
        rows.append(("others", f"{len(others)} contributions", sum(others)))
    return [*rows, ("sum", "", found.score)]
