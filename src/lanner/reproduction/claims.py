"""The papers' claims compared with measured figures: pure functions over ``claims.toml`` and result files."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from lanner.errors import ConfigError

Verdict = Literal["beaten", "met", "not reached", "not reproducible", "not measured"]
Results = Mapping[str, Mapping[str, Any]]
"""Result files by name, as ``benchmarks`` writes them."""


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
    published: float | None = None
    bar: float | None = None
    better: Literal["higher", "lower"] = "higher"
    shown: str = "{:.3f}"
    why: str = ""


@dataclass(frozen=True)
class Experiment:
    """What writes a result file: a module of ``benchmarks`` with its arguments. quick: arguments of the short form."""

    file: str
    command: tuple[str, ...]
    minutes: float
    quick: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A claim with its measured figure; value and interval are None if missing."""

    claim: Claim
    value: float | None
    interval: tuple[float, float] | None
    verdict: Verdict

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


@dataclass(frozen=True)
class Claims:
    """papers: titles by id, in order."""

    papers: Mapping[str, str]
    claims: tuple[Claim, ...]
    experiments: tuple[Experiment, ...]


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
        raise ConfigError(f"{folder}: no such folder; give the folder of result files with --results")
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_bytes())
            found[path.stem]["results"], found[path.stem]["commit"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: not a result file ({error}); remove it or measure again") from None
    return found


def judge(claim: Claim, results: Results) -> Finding:
    """Compare a claim with what was measured.

    *beaten*: better than the paper's number; *met*: as good, or past the bar if the paper gives none.
    """
    try:
        measured = results[claim.file]["results"]
        found = _at(measured, claim.at)
        if found is None:  # what the figure waits for never happened
            return Finding(claim, None, None, "not reached")
        value = float(found)
        if claim.over:
            value = value / float(_at(measured, claim.over)) - 1
    except KeyError:
        return Finding(claim, None, None, "not measured")
    interval = None if claim.over else _interval(measured, claim.at)
    if claim.why:
        return Finding(claim, value, interval, "not reproducible")
    wanted = claim.bar if claim.published is None else claim.published
    assert wanted is not None, f"{claim.claim}: neither a published figure nor a bar"
    sign = 1 if claim.better == "higher" else -1
    gained = sign * (value - wanted)
    if gained < 0:
        return Finding(claim, value, interval, "not reached")
    return Finding(claim, value, interval, "beaten" if gained > 0 and claim.published is not None else "met")


def _at(results: Any, place: Sequence[str]) -> Any:
    for name in place:
        if not isinstance(results, Mapping):
            raise KeyError(name)
        results = results[name]
    return results


def _interval(results: Any, place: Sequence[str]) -> tuple[float, float] | None:
    """The 95 % interval stored with a metric, if any."""
    try:
        low, high = _at(results, [*place[:-1], "ci95", place[-1]])
    except KeyError:
        return None
    return float(low), float(high)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
