"""Tune a model's settings with Optuna on validation events; trials are kept in a file, so a search can be resumed."""

import fcntl
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lanner.config import RunConfig, to_dict
from lanner.data.describe import fingerprint
from lanner.data.interactions import Dataset
from lanner.data.split import HeldOut
from lanner.errors import ConfigError, Interrupted, LannerError, StorageError, optional_module
from lanner.evaluation.metrics import RANKED
from lanner.evaluation.protocol import evaluate
from lanner.files import check_writable, digest, write_file
from lanner.library.keywords import keywords_of
from lanner.pipeline import Announce, read
from lanner.registry import Plan, model_builder, narrowed, planned
from lanner.settings import build, read_toml, replaced, with_options

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

EXAMPLE = "a list of choices, or a range such as { low = 1, high = 100, log = true }"
INTERRUPTED = "stopped by Ctrl-C"
KILLED = "the process was killed during the trial, perhaps for lack of memory"


@dataclass(frozen=True)
class Range:
    """The values from ``low`` to ``high``, inclusive; ``log``: on a logarithmic scale."""

    low: int | float
    high: int | float
    log: bool = False


@dataclass(frozen=True)
class Trial:
    """One trial. number: from 1. settings: by dotted name. value: the metric, None if it failed; error: why."""

    number: int
    settings: dict[str, Any]
    value: float | None
    seconds: float
    error: str = ""


def best_of(trials: list[Trial]) -> Trial | None:
    """The first of the trials with the highest value; None if all failed."""
    return max((one for one in trials if one.value is not None), key=lambda one: one.value or 0.0, default=None)


@dataclass(frozen=True)
class Search:
    """Search space, budget and output."""

    space: Path
    """TOML file, see ``read_space``."""
    out: Path = Path("tuned.toml")
    """TOML file for the settings that differ from the defaults."""
    metric: str = "ndcg_at_10"
    """One of ``RANKED`` at a cutoff; higher is better."""
    trials: int = 30
    """Total number of trials, including failed ones and those of earlier calls."""
    seconds: float | None = None
    """No trial starts this many seconds after a call's first one; None: no limit. Loading the data does not count."""
    seed: int = 0

    @property
    def study(self) -> Path:
        """The file, beside the output, that stores the trials."""
        return self.out.with_name(f"{self.out.name}.study")


def tune(
    config: RunConfig,
    search: Search,
    announce: Announce = lambda _: None,
    finished: Callable[[list[Trial], float], None] = lambda *_: None,
) -> list[Trial]:
    """Fit on the split's training events, evaluate on its validation events, and write the best settings to a file.

    Test events are never read. The search is Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011),
    re-seeded for each trial, so that a resumed search runs the same trials as an uninterrupted one.

    Args:
        config: the settings that are not searched.
        search: search space, budget and output.
        announce: called with a line for each stage that begins.
        finished: called after each trial, with all trials so far and the seconds since this call's first one began.

    Returns:
        All trials of the study, in order.

    Raises:
        ConfigError: a setting, the space or the metric is invalid; the study is another search's, or in use by another
            process; or all trials failed.
        Interrupted: Ctrl-C; finished trials are kept. StorageError: a file cannot be written.
        MissingExtraError: Optuna, or a package that the model needs, is not installed.
    """
    optional_module("optuna", "optuna", "tune", "lanner tune")
    k, space, out = _cutoff(search.metric), read_space(search.space, config), search.out
    check_writable(out.parent, str(out), "another --out")
    if out.exists() and not search.study.exists():
        raise StorageError(f"{out}: exists, and was not written by lanner tune; give another --out")
    dataset, _ = read(config, announce)
    plan = planned(config, dataset, measure=False)
    for note in plan.notes:
        announce(note)
    if not len(plan.split.validation):
        raise ConfigError(f"the split '{plan.config.split.name}' has no validation events; raise split.validation")
    validation = narrowed(plan.split.validation, dataset.num_items, config.evaluation)
    with _locked(search.study):
        study = _Study(search, space, _made_with(plan, dataset, search, space))
        announce(f"trials in {search.study}: {len(study.trials())}")
        done = _run_trials(
            study, search, lambda settings: _measured(plan, settings, validation, search.metric, k), finished
        )
    best = best_of(done)
    if best is None:
        if not done:
            raise ConfigError(f"no trial was made within --seconds {search.seconds:g}; give more")
        raise ConfigError(
            f"all {len(done)} trials failed, the last one with: {done[-1].error}; change the space or the settings, "
            "and give another --out"
        )
    title = (
        f"# {search.metric} {best.value:.4f} on validation events: trial {best.number} of {len(done)} of lanner tune"
    )
    write_file(out, f"{title}\n{recipe(with_options(config, best.settings))}".encode())
    return done


def _run_trials(
    study: "_Study",
    search: Search,
    measure: Callable[[dict[str, Any]], float],
    finished: Callable[[list[Trial], float], None],
) -> list[Trial]:
    """Run the trials that the study still lacks; returns all of them."""
    begun = time.perf_counter()
    done = study.trials()
    try:
        while len(done) < search.trials and (search.seconds is None or time.perf_counter() - begun < search.seconds):
            study.make_trial(measure)
            done = study.trials()
            finished(done, time.perf_counter() - begun)
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted(
            f"stopped; trials kept in {search.study}: {len(done)}; run the same command again to resume"
        ) from None
    return done


def read_space(path: Path, config: RunConfig) -> "dict[str, BaseDistribution]":
    """The search space declared in a TOML file: for each dotted setting a list of choices, or a table as ``Range``.

    Choices are encoded as JSON, since Optuna's cannot be lists.

    Raises:
        ConfigError: the file cannot be read, or contains a setting that is unknown or not one of ``config.model``, or
            an invalid value.
    """
    model_builder(config.model)
    of_model = {name for one in keywords_of(config.model).values() for name in one.settings}
    space = {}
    for key, declared in _leaves(read_toml(path)):
        try:
            space[key] = _domain(key, declared, config)
            if key not in of_model and key.partition(".")[0] not in of_model:
                raise ConfigError(
                    f"{key} is not a setting of the model '{config.model}' itself; only those are searched"
                )
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        except ValueError as error:  # from Optuna: no choices, low above high, the logarithm of 0
            raise ConfigError(f"{path}: {key}: {error}") from None
    if not space:
        raise ConfigError(f"{path}: declares no setting; give each setting to search {EXAMPLE}")
    return space


def recipe(config: RunConfig) -> str:
    """TOML of the settings that differ from the defaults, one per line; ``read_config`` restores ``config``."""
    return "".join(f"{key} = {value}\n" for key, value in _differences(to_dict(config), to_dict(RunConfig())))


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        key = place + (name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name, ensure_ascii=False))
        if isinstance(value, Mapping):
            yield from _differences(value, defaults.get(name, {}), f"{key}.")
        elif name not in defaults or value != defaults[name]:
            yield key, json.dumps(value, ensure_ascii=False)


def _leaves(table: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """The value of each dotted setting; a table without low and high is a section."""
    for name, value in table.items():
        key = place + name.replace("-", "_")
        if isinstance(value, Mapping) and not {"low", "high"} & value.keys():
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _domain(key: str, declared: Any, config: RunConfig) -> "BaseDistribution":
    """One setting's choices or range as an Optuna distribution, with every value validated."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def checked(value: Any) -> Any:
        return reduce(getattr, key.split("."), replaced(config, key, value))

    if isinstance(declared, list):
        for value in declared:
            checked(value)
        return CategoricalDistribution([json.dumps(value) for value in declared])
    if not isinstance(declared, Mapping):
        raise ConfigError(f"{key}: received {declared!r}, expected {EXAMPLE}")
    span: Range = build(Range, declared, f"{key}.")
    low, high = checked(span.low), checked(span.high)
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=span.log)
    return FloatDistribution(low, high, log=span.log)


def _cutoff(metric: str) -> int:
    """The cutoff of a metric. Raises ``ConfigError`` unless it is one of ``RANKED`` at a cutoff."""
    name, _, k = metric.partition("_at_")
    if name not in RANKED or not re.fullmatch("[1-9][0-9]{0,8}", k):
        raise ConfigError(f"--metric {metric}: expected one of {', '.join(RANKED)} with a cutoff, such as ndcg_at_10")
    return int(k)


def _made_with(plan: Plan, dataset: Dataset, search: Search, space: "dict[str, BaseDistribution]") -> dict[str, str]:
    """Digests of the inputs that all trials of a study share."""
    parts: dict[str, Any] = {
        "dataset": fingerprint(dataset),
        "split": to_dict(plan.config.split),
        "space": {key: repr(one) for key, one in space.items()},
        "metric": search.metric,
        "settings": {**to_dict(plan.config), "data": None, "split": None},
        "search seed": search.seed,
    }
    return {what: digest(json.dumps(one, sort_keys=True).encode()) for what, one in parts.items()}


def _measured(plan: Plan, settings: Mapping[str, Any], validation: HeldOut, metric: str, k: int) -> float:
    """The metric on the validation events for a model with these settings, fitted on the training events."""
    config = with_options(plan.config, settings)
    recommender = model_builder(config.model)(config, None).fit(plan.split.train, validation)
    return evaluate(recommender, validation, [k], [metric.partition("_at_")[0]])[metric]


class _Study:
    """The trials of one search, in Optuna's SQLite file.

    Raises:
        ConfigError: the file's trials were made with other inputs. StorageError: it cannot be read or written.
    """

    def __init__(self, search: Search, space: "dict[str, BaseDistribution]", made_with: Mapping[str, str]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.path, self._space, self._seed, self._optuna = search.study, space, search.seed, optuna
        with self._errors_in_words():
            self._study = optuna.create_study(
                storage=f"sqlite:///{self.path}", study_name="lanner tune", direction="maximize", load_if_exists=True
            )
            kept = self._study.user_attrs.get("made_with", made_with)
            different = [what for what in made_with if kept.get(what) != made_with[what]]
            if different:
                raise ConfigError(f"{self.path}: its trials were made with another {different[0]}; give another --out")
            self._study.set_user_attr("made_with", dict(made_with))
            for trial in self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
                self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def trials(self) -> list[Trial]:
        """Finished and failed trials, in order; those interrupted by Ctrl-C are left out and repeated."""
        with self._errors_in_words():
            found = [
                one for one in self._study.get_trials(deepcopy=False) if one.user_attrs.get("error") != INTERRUPTED
            ]
        return [
            Trial(
                number,
                _decoded(one),
                one.value,
                one.duration.total_seconds() if one.duration else 0.0,
                "" if one.value is not None else one.user_attrs.get("error", KILLED),
            )
            for number, one in enumerate(found, 1)
        ]

    def make_trial(self, measure: Callable[[dict[str, Any]], float]) -> None:
        """Run the next trial; settings tried before reuse their value.

        Raises:
            KeyboardInterrupt, Interrupted: Ctrl-C; the trial does not count.
        """
        failed = self._optuna.trial.TrialState.FAIL
        with self._errors_in_words():
            done = self.trials()
            self._study.sampler = self._optuna.samplers.TPESampler(seed=self._seed + len(done), constant_liar=False)
            trial = self._study.ask(self._space)
            settings = _decoded(trial)
            try:
                same = (one.value for one in done if one.settings == settings and one.value is not None)
                known = next(same, None)
                value = measure(settings) if known is None else known
                if not math.isfinite(value):
                    raise ValueError(f"the metric is {value}")
            except (KeyboardInterrupt, Interrupted):
                trial.set_user_attr("error", INTERRUPTED)
                self._study.tell(trial, state=failed)
                raise
            except Exception as error:  # out of memory, incompatible settings: the next may work
                said = str(error) if isinstance(error, LannerError) else f"{type(error).__name__} {error}"
                trial.set_user_attr("error", " ".join(said.split()))
                self._study.tell(trial, state=failed)
            else:
                self._study.tell(trial, value)

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (self._optuna.exceptions.OptunaError, SQLAlchemyError, OSError) as error:
            reason = error.__cause__ or error
            reason = getattr(reason, "orig", reason)
            raise StorageError(f"{self.path}: the study cannot be read or written ({reason})") from error


@contextmanager
def _locked(study: Path) -> Iterator[None]:
    """Keeps other processes out of a study: each would mark the other's running trial as killed."""
    try:
        study.parent.mkdir(parents=True, exist_ok=True)
        file = study.open("ab")
    except OSError as error:
        raise StorageError(f"{study}: the study cannot be read or written ({error.strerror})") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{study}: another lanner tune is using this study; wait for it, or give another --out"
            ) from None
        yield


def _decoded(trial: "optuna.trial.FrozenTrial | optuna.trial.Trial") -> dict[str, Any]:
    """A trial's settings; choices were written as JSON."""
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in trial.params.items()}
