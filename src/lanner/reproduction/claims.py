"""The papers' claims compared with measured figures: pure functions over ``claims.toml`` and result files."""

import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from lanner.errors import ConfigError

Verdict = Literal["beaten", "met", "answered", "undecided", "not reached", "not reproducible", "not measured"]
Results = Mapping[str, Mapping[str, Any]]
"""Result files by name, as ``benchmarks`` writes them."""
Interval = tuple[float, float]
_NAMED = 8
"""Rows that a protocol names; of more than these only the worst."""


@dataclass(frozen=True)
class Claim:
    """One claim of a paper. The fields are described in ``claims.toml``."""

    paper: str
    claim: str
    protocol: str
    said: str
    file: str
    at: tuple[str, ...]
    over: tuple[str, ...] = ()
    interval: tuple[str, ...] = ()
    origin: tuple[tuple[str, ...], ...] = ()
    published: float | None = None
    published_at: tuple[str, ...] = ()
    bar: float | None = None
    better: Literal["higher", "lower"] = "higher"
    shown: str = "{:.3f}"
    note: str = ""
    reproducible: bool = True


@dataclass(frozen=True)
class Experiment:
    """What writes a result file: a module of ``benchmarks`` with its arguments. quick: arguments of the short form.

    minutes: of the whole form on 2 cores; estimated unless ``timed``.
    """

    file: str
    command: tuple[str, ...]
    minutes: float
    quick: tuple[str, ...] = ()
    timed: bool = False


@dataclass(frozen=True)
class Finding:
    """A claim with its measured figure.

    paper: the published figure as printed. wanted: the value to reach; None for a question without one. value,
    interval: None if missing. rows: what the ``*`` of the claim's path stand for; worst: that of the row whose figure
    it is. rounds: how many the interval is the range of; 0: it is the 95 % interval. splits: how many splits the figure
    is the mean of. commits: of the rows that the figure comes from, each once. date: of the result file. Both are empty
    without a measurement.
    """

    claim: Claim
    verdict: Verdict
    paper: str
    wanted: float | None
    value: float | None = None
    interval: Interval | None = None
    rows: tuple[str, ...] = ()
    worst: str = ""
    rounds: int = 0
    splits: int = 1
    commits: tuple[str, ...] = ()
    date: str = ""

    @property
    def said(self) -> str:
        """The figure and its interval as printed."""
        if self.value is None:
            return "–"
        shown = self.claim.shown.format(self.value)
        if self.interval is None:
            return shown
        low, high = (self.claim.shown.format(bound) for bound in self.interval)
        return f"{shown} ({low} … {high})"

    @property
    def reason(self) -> str:
        """What was to be reached, and what else to know when reading the verdict."""
        parts = ["The run ended before it got there."] if self.verdict == "not reached" and self.value is None else []
        if self.verdict == "not measured" and not self.claim.note:
            parts.append("The result file has no such row; the command measures it.")
        if self.wanted is not None and self.value is not None and self.claim.reproducible:
            limit = "at least" if self.claim.better == "higher" else "at most"
            spread = "range" if self.rounds else "interval"
            within = f"; the {spread} includes it" if self.verdict == "undecided" else ""
            parts.append(f"Wanted: {limit} {self.claim.shown.format(self.wanted)}{within}.")
        return " ".join([*parts, *([self.claim.note] if self.claim.note else [])])

    @property
    def protocol(self) -> str:
        """The claim's protocol, with the rows that were compared and what figure and interval are of."""
        parts = [self.claim.protocol]
        if len(self.rows) > _NAMED:
            parts.append(f"worst of {len(self.rows)} rows: {self.worst}")
        elif self.rows:
            worst = f"worst of {len(self.rows)}: " if len(self.rows) > 1 else ""
            parts.append(f"{worst}{', '.join(self.rows)}")
        if self.rounds:
            parts.append(f"range of {self.rounds} rounds")
        if self.splits > 1:
            interval = "" if self.interval is None else ", interval over the users of the first"
            parts.append(f"mean of {self.splits} splits{interval}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Claims:
    """papers: titles by id, in order."""

    papers: Mapping[str, str]
    claims: tuple[Claim, ...]
    experiments: tuple[Experiment, ...]

    @property
    def hours(self) -> float:
        """Approximate time of all experiments on 2 cores."""
        return sum(one.minutes for one in self.experiments) / 60

    def timed(self, minutes: Mapping[str, float]) -> "Claims":
        """The same with the minutes that commands really took, by command; the others stay estimated."""
        known = [
            replace(one, minutes=minutes[" ".join(one.command)], timed=True)
            if " ".join(one.command) in minutes
            else one
            for one in self.experiments
        ]
        return replace(self, experiments=tuple(known))


@dataclass(frozen=True)
class _Row:
    """A figure, with the keys that ``*`` stands for. value: None if what it waits for never happened.

    rounds: how many ``interval`` is the range of; 0: it is the 95 % interval.
    """

    names: tuple[str, ...]
    value: float | None
    interval: Interval | None = None
    rounds: int = 0


def read_claims() -> Claims:
    """The claims shipped with the package."""
    told = tomllib.loads(files("lanner.reproduction").joinpath("claims.toml").read_text(encoding="utf-8"))
    claims = [Claim(**{key: _frozen(value) for key, value in one.items()}) for one in told["claims"]]
    experiments = [Experiment(**{key: _frozen(value) for key, value in one.items()}) for one in told["experiments"]]
    return Claims({one["id"]: one["title"] for one in told["papers"]}, tuple(claims), tuple(experiments))


def read_results(folder: Path) -> dict[str, Any]:
    """Result files of a folder by name.

    Raises:
        ConfigError: no such folder, or a file that is not a result file.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; run it in a checkout of Lanner, or give --results FOLDER")
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_bytes())
            kinds = {"results": dict, "commit": str, "date": str}
            wrong = [name for name, kind in kinds.items() if not isinstance(found[path.stem][name], kind)]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: not a result file ({error}); remove it or measure again") from None
        if wrong:
            raise ConfigError(f"{path}: not a result file (wrong type: {', '.join(wrong)}); remove it or measure again")
    return found


def results_of(results: Results, file: str) -> Mapping[str, Any]:
    """What a result file holds; empty if there is no such file."""
    found: Mapping[str, Any] = results.get(file, {}).get("results", {})
    return found


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Skip the rest of the block if a key is missing in a result file.

    Raises:
        ConfigError: something in it has the wrong type; the message names the file.
    """
    try:
        yield
    except KeyError:
        return
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise _damaged(file, str(error)) from error


def judge(claim: Claim, results: Results) -> Finding:
    """Compare a claim with what was measured.

    *beaten*: better than the paper's number; *met*: as good, or past the bar if the paper gives none; *undecided*: the
    interval or the range of the rounds includes the number or the bar; *answered*: there is neither.

    Raises:
        ConfigError: something else than a number stands in the place of one.
    """
    measured = results_of(results, claim.file)
    try:
        wanted, paper = _published(claim, measured)
        rows = list(_rows(claim, measured))
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged(claim.file, str(error)) from error
    measurable = rows and all(row.value is None or math.isfinite(row.value) for row in rows)
    if not measurable or (wanted is None and claim.published_at):
        return Finding(claim, "not measured", paper, wanted)
    sign = 1 if claim.better == "higher" else -1
    worst = min(rows, key=lambda row: -math.inf if row.value is None else sign * row.value)
    return Finding(
        claim,
        _verdict(claim, worst, wanted),
        paper,
        wanted,
        worst.value,
        worst.interval,
        tuple("/".join(row.names) for row in rows if row.names),
        "/".join(worst.names),
        worst.rounds,
        int(_nearest("seeds", 1, measured, _filled(claim.at, worst.names))),
        _commits(claim, results[claim.file], worst.names),
        results[claim.file].get("date", "")[:10],
    )


def _verdict(claim: Claim, row: _Row, wanted: float | None) -> Verdict:
    if row.value is None:
        return "not reached"
    if not claim.reproducible:
        return "not reproducible"
    if wanted is None:
        return "answered"
    if row.interval is not None and row.interval[0] <= wanted <= row.interval[1]:
        return "undecided"
    gained = (row.value - wanted) if claim.better == "higher" else (wanted - row.value)
    if gained < 0:
        return "not reached"
    return "beaten" if gained > 0 and claim.bar is None else "met"


def _published(claim: Claim, measured: Any) -> tuple[float | None, str]:
    """What is to be reached, and the published figure as printed; of several published ones the best."""
    if not claim.published_at:
        return (claim.bar if claim.published is None else claim.published), claim.said
    found = []
    for names, value in _found(measured, claim.published_at):
        # A row has its model beside its metrics, or as its key.
        ((_, row),) = _found(measured, _filled(claim.published_at[: claim.published_at.index("*") + 1], names))
        who = f"{row['model']}, {row['source']}" if isinstance(row, Mapping) and "source" in row else names[0]
        if value is not None:
            found.append((_number(value, claim.published_at), who))
    if not found:
        return None, claim.said
    best, who = (max if claim.better == "higher" else min)(found)
    return best, f"{claim.shown.format(best)} ({who})"


def _rows(claim: Claim, measured: Any) -> Iterator[_Row]:
    for names, found in _found(measured, claim.at):
        if found is None:
            yield _Row(names, None)
            continue
        value, base = _number(found, claim.at), 1.0
        rounds = _by_round(claim, measured, names)
        if claim.over:
            bases = [_number(one, claim.over) for _, one in _found(measured, _filled(claim.over, names))]
            if not bases or bases[0] == 0:
                continue
            base = bases[0]
            value = value / base - 1
        if rounds:
            yield _Row(names, value, (min(rounds), max(rounds)), len(rounds))
            continue
        if claim.over and not claim.interval:
            yield _Row(names, value, _unpaired(claim, measured, names))
            continue
        place = claim.interval or _beside(claim.at)
        yield _Row(names, value, _interval(measured, _filled(place, names), base))


def _beside(place: Sequence[str]) -> tuple[str, ...]:
    """Where the 95 % interval of a row's figure is."""
    return (*place[:-1], "ci95", place[-1])


def _unpaired(claim: Claim, measured: Any, names: Sequence[str]) -> Interval | None:
    """An interval of the relative difference of two rows from the interval of each, as if their users were different.

    It is wider than a paired one if the scores of the same users correlate.
    """
    places = [_filled(place, names) for place in (claim.at, claim.over)]
    bounds = [_interval(measured, _beside(place), 1.0) for place in places]
    if bounds[0] is None or bounds[1] is None:
        return None
    ours, other = (_number(value, place) for place in places for _, value in _found(measured, place))
    low, high = (side * math.hypot(bounds[0][at] - ours, bounds[1][1 - at] - other) for at, side in enumerate((-1, 1)))
    return (ours - other + low) / other, (ours - other + high) / other


def _by_round(claim: Claim, measured: Any, names: Sequence[str]) -> list[float]:
    """The figure of each round, where a benchmark records them beside it; rounds of two rows are compared in turn."""
    places = [_filled(place, names) for place in (claim.at, claim.over) if place]
    found = [
        [_number(one, place) for one in values]
        for place in places
        for _, values in _found(measured, (*place[:-1], f"{place[-1]}_by_round"))
    ]
    if len(found) < len(places) or not claim.over:
        return found[0] if found and not claim.over else []
    return [one / base - 1 for one, base in zip(*found, strict=True)]


def _interval(measured: Any, place: Sequence[str], base: float) -> Interval | None:
    """The 95 % interval at a place, relative to ``base``; if the place has several, the widest that covers them all."""
    found = [[_number(bound, place) for bound in bounds] for _, bounds in _found(measured, place)]
    if not found:
        return None
    low, high = min(low for low, _ in found) / base, max(high for _, high in found) / base
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _found(table: Any, place: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values at a place, each with the keys that ``*`` stands for; none if the place does not exist."""
    if not place:
        yield (), table
        return
    if isinstance(table, list):
        table = {str(row): value for row, value in enumerate(table)}
    if isinstance(table, Mapping):
        for key in table if place[0] == "*" else place[:1]:
            for names, value in _found(table[key], place[1:]) if key in table else ():
                yield ((key, *names) if place[0] == "*" else names), value


def _filled(place: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """A place with ``names`` for its first ``*``."""
    left = iter(names)
    return tuple(next(left, "*") if one == "*" else one for one in place)


def _number(value: Any, place: Sequence[str]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{'.'.join(place)} is {value!r}, not a number")
    return float(value)


def _commits(claim: Claim, entry: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """The commits at which the rows of a figure were measured, each once; without ``origin`` the rows compared."""
    measured = entry["results"]
    origins = claim.origin or (_filled(claim.at, names), _filled(claim.over, names))
    rows = [_filled(place, found) for place in origins if place for found, _ in _found(measured, place)]
    return tuple(dict.fromkeys(_commit(entry, row) for row in rows or [claim.at]))


def _commit(entry: Mapping[str, Any], place: Sequence[str]) -> str:
    """The commit of a row or of the section or mode that it belongs to (``commits``), else that of the file."""
    listed = entry["results"].get("commits", {})
    named = next((listed[name] for name in reversed(place) if name in listed), entry["commit"])
    return str(_nearest("commit", named, entry["results"], place))


def _nearest(key: str, default: Any, table: Any, place: Sequence[str]) -> Any:
    """The value of a key in the innermost table that has it, at a place or on the way to it, else the default."""
    tables = [table]
    for name in place:
        table = table[int(name) if isinstance(table, list) else name]
        tables.append(table)
    return next((one[key] for one in reversed(tables) if isinstance(one, Mapping) and key in one), default)


def _damaged(file: str, problem: str) -> ConfigError:
    return ConfigError(f"{file}.json: {problem}; measure again, or remove the file")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value
