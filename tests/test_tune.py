"""The settings search: what it fits on, what it keeps, and what it writes."""

import time
from dataclasses import replace

import pytest

from lanner import tune as searching
from lanner.config import RunConfig, read_config
from lanner.errors import ConfigError, Interrupted, StorageError
from lanner.library.keywords import keywords_of
from lanner.registry import MODELS, planned
from lanner.settings import with_options
from lanner.tune import Search, best_of, read_space, recipe, tune

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

EVENTS = [(f"u{user}", f"i{item}") for user in range(30) for item in range(20) if (user * 3 + item * 5) % 7 < 3]
EASE = "ease.regularisation = { low = 1, high = 1000, log = true }\nease.neighbours = { low = 2, high = 20 }\n"
QUICK = {
    **{"training.epochs": 1, "training.device": "cpu", "neural.dimensions": 4, "neural.language_dimensions": 4},
    **{"neural.word_dimensions": 4, "neural.filter_rank": 4, "ials.factors": 4, "ials.iterations": 1},
    **{"neural.encoder.device": "cpu", "graph_filter.rank": 4, "hybrid.rank": 4},
}


@pytest.fixture
def events(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text("user,item,title\n" + "".join(f"{user},{item},film {item}\n" for user, item in EVENTS))
    return path


@pytest.fixture
def search(tmp_path, events):
    """Runs a search of EASE by the options that are given."""
    space = tmp_path / "space.toml"
    space.write_text(EASE)

    def run(name="tuned.toml", settings=None, finished=lambda *_: None, **options):
        config = with_options(RunConfig(), {"model": "ease", "data.path": str(events), **(settings or {})})
        return tune(
            config, Search(**{"space": space, "out": tmp_path / name, "trials": 6, **options}), finished=finished
        )

    return run


def made(trials):
    return [(one.number, one.settings, one.value, one.error) for one in trials]


def test_the_best_trial_becomes_a_file_of_settings(search, tmp_path, events):
    told = []
    trials = search(settings={"split.seed": 3}, finished=lambda done, _: told.append(done))
    best = best_of(trials)
    assert [len(one) for one in told] == [1, 2, 3, 4, 5, 6]
    assert best.value == max(one.value for one in trials) > min(one.value for one in trials)
    assert all(1 <= one.settings["ease.regularisation"] <= 1000 for one in trials)
    assert all(isinstance(one.settings["ease.neighbours"], int) for one in trials)
    wanted = {"model": "ease", "data.path": str(events), "split.seed": 3, **best.settings}
    assert read_config(tmp_path / "tuned.toml") == with_options(RunConfig(), wanted)
    lines = (tmp_path / "tuned.toml").read_text().splitlines()
    assert lines[0].startswith(f"# ndcg_at_10 {best.value:.4f} on validation events")
    assert len(lines) == 1 + len(wanted)


def test_a_recipe_is_read_as_the_settings_that_it_was_made_of(tmp_path):
    changes = {
        "model": 'a "model"',
        "feedback.behaviour_weights": {"add to cart": 0.5, "view": 1e-7},
        "hybrid.parts": ["ridge", "order"],
        "training.epochs": 3,
    }
    config = with_options(RunConfig(), changes)
    (tmp_path / "r.toml").write_text(recipe(config))
    assert read_config(tmp_path / "r.toml") == config
    assert recipe(RunConfig()) == ""


def test_models_are_fitted_on_training_events_and_test_events_are_never_read(search, monkeypatch):
    plans = []

    def without_test(config, dataset, **options):
        plan = planned(config, dataset, **options)
        plans.append(plan)
        return replace(plan, test=None, split=replace(plan.split, test=None, refit=None))

    fitted, fit = [], searching.model_builder("ease")(RunConfig(), None).__class__.fit
    monkeypatch.setattr(searching, "planned", without_test)
    monkeypatch.setattr("lanner.models.ease.EASE.fit", lambda self, *data: fitted.append(data) or fit(self, *data))
    search(trials=1)
    assert fitted == [(plans[0].split.train, plans[0].split.validation)]


@pytest.mark.parametrize("stopped_by", [KeyboardInterrupt, Interrupted("its training")])
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(search, monkeypatch, stopped_by):
    whole = made(search("whole.toml"))
    measure, calls = searching._measured, []

    def stopping(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise stopped_by
        return measure(*arguments)

    monkeypatch.setattr(searching, "_measured", stopping)
    with pytest.raises(Interrupted, match=r"parts\.toml\.study: 3; run the same command again to resume"):
        search("parts.toml")
    assert made(search("parts.toml")) == whole
    assert len(calls) == 7
    assert made(search("parts.toml", trials=3)) == whole, "nothing more to do"
    assert len(calls) == 7
    assert made(search("parts.toml", trials=7))[:6] == whole


def test_a_trial_that_fails_or_kills_the_process_is_counted(search, monkeypatch, tmp_path):
    measure, calls = searching._measured, []

    def failing(*arguments):
        calls.append(arguments)
        match len(calls):
            case 1:
                raise MemoryError("120 GiB\nare wanted")
            case 2:
                return float("nan")
            case 3:
                raise SystemExit  # as a kill, it leaves the trial open
        return measure(*arguments)

    monkeypatch.setattr(searching, "_measured", failing)
    with pytest.raises(SystemExit):
        search()
    trials = search(trials=4)
    assert [one.error for one in trials] == [
        "MemoryError 120 GiB are wanted",
        "ValueError the metric is nan",
        "the process was killed during the trial, perhaps for lack of memory",
        "",
    ]
    assert [one.value is None for one in trials] == [True, True, True, False]
    assert best_of(trials) == trials[3]
    monkeypatch.setattr(searching, "_measured", lambda *_: 1 / 0)
    with pytest.raises(ConfigError, match="all 2 trials failed, the last one with: ZeroDivisionError"):
        search("none.toml", trials=2)
    assert not (tmp_path / "none.toml").exists()


def test_settings_that_were_tried_are_not_tried_again(search, tmp_path, monkeypatch):
    (tmp_path / "two.toml").write_text("[ease]\nregularisation = [1.0, 100.0]\n")
    measure, calls = searching._measured, []
    monkeypatch.setattr(searching, "_measured", lambda *arguments: calls.append(1) or measure(*arguments))
    trials = search(space=tmp_path / "two.toml")
    assert (len(trials), len(calls)) == (6, 2)
    assert len({(one.settings["ease.regularisation"], one.value) for one in trials}) == 2


def test_no_trial_begins_after_the_time_is_over(search):
    assert len(search(trials=1)) == 1
    assert len(search(trials=50, seconds=0.0)) == 1, "the first call's"
    with pytest.raises(ConfigError, match="no trial was made"):
        search("other.toml", seconds=0.0)


def test_loading_does_not_count_as_time_of_the_search(search, monkeypatch):
    read, elapsed = searching.read, []

    def slowly(*arguments):
        time.sleep(0.3)
        return read(*arguments)

    monkeypatch.setattr(searching, "read", slowly)
    monkeypatch.setattr(searching, "_measured", lambda *_: 0.5)
    before = time.perf_counter()
    assert search(trials=1, seconds=0.2, finished=lambda _, seconds: elapsed.append(seconds))
    assert elapsed[0] < time.perf_counter() - before - 0.3


def test_a_study_of_something_else_is_refused(search, tmp_path, events):
    search(trials=1)
    (tmp_path / "other.toml").write_text(EASE.replace("1000", "100"))
    for options, what in (
        ({"settings": {"split.test": 0.3}}, "split"),
        ({"space": tmp_path / "other.toml"}, "space"),
        ({"metric": "recall_at_5"}, "metric"),
        ({"settings": {"ease.memory_limit_mib": 100}}, "settings"),
        ({"seed": 1}, "search seed"),
    ):
        with pytest.raises(ConfigError, match=f"made with another {what}; give another --out"):
            search(**options)
    events.write_text(events.read_text() + "u1,i19,film\n")
    with pytest.raises(ConfigError, match="made with another dataset; give another --out"):
        search()


def test_two_searches_at_once_do_not_share_a_study(search, monkeypatch):
    measure, refusals = searching._measured, []

    def beginning_another(*arguments):
        with pytest.raises(ConfigError, match="another lanner tune is using this study") as refusal:
            search(trials=2)
        refusals.append(refusal)
        return measure(*arguments)

    monkeypatch.setattr(searching, "_measured", beginning_another)
    assert [one.error for one in search(trials=2)] == ["", ""]
    assert len(refusals) == 2


def test_ctrl_c_between_two_trials_keeps_those_that_are_done(search):
    def finished(*_):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"\.study: 1; run the same command again to resume"):
        search(finished=finished)


def test_an_output_below_a_file_is_refused(search, tmp_path):
    with pytest.raises(StorageError, match="is not a writable folder; give another --out"):
        search("space.toml/out.toml")


def test_files_that_are_not_its_own_are_left_alone(search, tmp_path):
    (tmp_path / "mine.toml").write_text("mine")
    with pytest.raises(StorageError, match="was not written by lanner tune"):
        search("mine.toml")
    (tmp_path / "notes.toml.study").write_text("mine too")
    with pytest.raises(StorageError, match=r"notes\.toml\.study: the study cannot be read or written \(file is not a"):
        search("notes.toml")
    assert (tmp_path / "mine.toml").read_text() + (tmp_path / "notes.toml.study").read_text() == "minemine too"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ease.regularsation = [1]", "did you mean 'ease.regularisation'"),
        ("eese.regularisation = [1]", "did you mean 'ease'"),
        ("ease.regularisation = ['a']", "ease.regularisation: received 'a'"),
        ("ease.regularisation = [-1.0]", "must be above 0"),
        ("ease.regularisation = []", "ease.regularisation: "),
        ("ease.regularisation = 5", "received 5, expected a list of choices, or a range"),
        ("ease.regularisation = { low = 5, high = 1 }", "low"),
        ("ease.regularisation = { low = 5, hihg = 9 }", "did you mean 'ease.regularisation.high'"),
        ("ease.neighbours = { low = 1.5, high = 9 }", "ease.neighbours: received 1.5"),
        ("item-knn.neighbours = [5]", "item_knn.neighbours is not a setting of the model 'ease' itself"),
        ("split.seed = [1, 2]", "split.seed is not a setting of the model 'ease' itself"),
        ("model = ['ease', 'ials']", "model is not a setting of the model 'ease' itself"),
        ("", "declares no setting"),
        ("ease", "not TOML"),
    ],
)
def test_a_space_that_cannot_work_is_refused(tmp_path, text, problem):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_space(path, RunConfig(model="ease"))
    assert str(refused.value).startswith(f"{path}: ")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_split_without_validation_events_is_refused(search):
    with pytest.raises(ConfigError, match="has no validation events; raise split"):
        search(settings={"split.validation": 0.0})


@pytest.mark.usefixtures("hashed_words")
@pytest.mark.parametrize("model", [name for name in MODELS if keywords_of(name)])
def test_every_model_with_settings_can_be_searched(model, search, tmp_path):
    known = with_options(RunConfig(model=model), QUICK)
    settings = [key for one in keywords_of(model).values() for key in one.settings]
    names = [key for key in settings if isinstance(searching.reduce(getattr, key.split("."), known), str | int | float)]
    (tmp_path / "own.toml").write_text(f"{names[-1]} = [{_toml(known, names[-1])}]\n")
    trials = search(settings={"model": model, **QUICK}, space=tmp_path / "own.toml", trials=1)
    assert [(list(one.settings), one.error) for one in trials] == [([names[-1]], "")]
    assert 0 <= trials[0].value <= 1


def test_settings_of_a_section_can_be_searched(tmp_path):
    (tmp_path / "space.toml").write_text("adaptation.rank = [4, 8]\n")
    assert set(searching.read_space(tmp_path / "space.toml", RunConfig(model="language"))) == {"adaptation.rank"}


def _toml(config, name):
    value = searching.reduce(getattr, name.split("."), config)
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
