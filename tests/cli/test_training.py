"""``lanner run``, ``train``, ``evaluate`` and ``compare``."""

import errno
import json
import os
import re
import signal

import pytest
import torch
from cli_calls import EVENTS, complaint, csv

from lanner.cli.training import chosen_settings

QUICK = ("--set", "training.epochs=2", "--set", "neural.dimensions=4", "--set", "training.device=cpu")


def test_run_prints_metrics_and_recommendations_with_reasons(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    code, out, err = ask("run", events, "--model", "item-knn", "--out", "b", "--json")
    assert code == 0
    answer = json.loads(out)
    assert 0 < answer["metrics"]["ndcg_at_10"] <= 1
    assert len(answer["recommendations"]) == 3
    assert any(
        item["reason"].startswith("you chose i") for items in answer["recommendations"].values() for item in items
    )
    assert "fit item-knn" in err
    assert "feedback: every event is positive" in err
    assert answer["feedback"] == "every event is positive"
    assert (answer["notes"], answer["rejected"], answer["warnings"]) == ([], {}, [])
    config = json.loads((tmp_path / "b" / "manifest.json").read_text())["config"]
    assert (config["model"], config["split"]["name"]) == ("item-knn", "random"), "no times, so at random"
    code, out, _ = ask("evaluate", "b", "--json")
    assert json.loads(out)["metrics"] == pytest.approx(answer["metrics"])


def test_train_withholds_nothing_and_its_bundle_cannot_be_evaluated(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    code, out, _ = ask("train", events, "--model", "item-knn", "--out", "b", "--json")
    assert (code, json.loads(out)["model"]) == (0, "item-knn")
    for command in (("evaluate", "b"), ("compare", "b", "b")):
        assert (
            f"none is left to evaluate it on; measure the model on a split instead: lanner run {events}"
            in complaint(ask(*command))
        )
    assert "lanner train uses every event" in complaint(ask("train", events, "--set", "split.test=0.1"))
    assert "lanner train, or lanner run --refit" in complaint(ask("run", events, "--set", "split.test=0"))


def test_an_update_takes_new_events_into_a_new_bundle(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    more = csv(tmp_path / "more.csv", [("u1", "new item"), ("new user", "i1"), ("new user", "new item"), EVENTS[0]])
    assert ask("train", events, "--model", "ease", "--out", "b")[0] == 0
    code, out, err = ask("update", "b", more, "--out", "c", "--json")
    assert (code, json.loads(out)) == (0, {"bundle": "c", "events": 3, "users": 1, "items": 1})
    assert "update ease with 4 events" in err
    known = json.loads(ask("recommend", "c", "--user", "new user", "-k", "20", "--json")[1])["items"]
    assert not {"new item", "i1"} & {item["item"] for item in known}
    assert "new item" in {
        item["item"] for item in json.loads(ask("recommend", "c", "--user", "u2", "--json")[1])["items"]
    }
    assert "no such file or folder" in complaint(ask("update", "b", "nowhere.csv", "--out", "c"))
    assert "not a bundle" in complaint(ask("update", "nowhere", more, "--out", "c"))


def test_refit_keeps_the_report_and_marks_it(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    found = {}
    for name, more in {"b": (), "c": ("--refit",)}.items():
        code, out, err = ask("run", events, "--model", "ease", "--out", name, "--json", *more)
        assert code == 0
        found[name] = json.loads(out)
    assert f"refit ease on all {len(EVENTS)} positive events" in err
    assert found["b"]["metrics"] == found["c"]["metrics"]
    assert (found["b"]["measured_before_refit"], found["c"]["measured_before_refit"]) == (False, True)
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert manifest["metrics"]["measured_before_refit"]
    assert manifest["metrics"]["split"]["name"] == "random"
    assert "fitted on every event" in complaint(ask("evaluate", "c"))


def test_the_default_model_goes_on_without_texts_and_says_how_to_give_some(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    code, out, err = ask("run", events, "--out", "b", "--json", *QUICK)
    note = "has a text: training without texts; to give texts, add columns 'title'"
    assert code == 0
    assert note in err
    assert note in json.loads(out)["notes"][0]
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["model"]["settings"]["network"]["config"]["views"] == ["relational"]
    for asked in (("--model", "language"), ("--set", 'neural.views=["graph", "language"]')):
        assert "which the language view needs; use --model gnn-filter" in complaint(ask("run", events, *asked))


def test_weights_of_behaviours_that_no_event_has_are_reported(ask, tmp_path):
    events = csv(tmp_path / "r.csv", [(*pair, "buy") for pair in EVENTS], "user,item,event")
    _, _, err = ask("train", events, "--model", "popularity", "--set", "feedback.behaviour_weights={byu=3}")
    assert "warning: behaviour_weights: no event has the behaviour 'byu'; did you mean 'buy'?" in err


def test_rejected_rows_are_said_with_their_reasons(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", [*EVENTS, ("", "i1"), ("u1", "")])
    for command in ("run", "train"):
        code, out, err = ask(command, events, "--model", "item-knn", "--out", "b", "--json")
        assert code == 0
        assert f"2 of {len(EVENTS) + 2} events were rejected" in err
        assert "rejected rows: 1 missing item id, 1 missing user id; to see them: lanner data describe" in err
        assert json.loads(out)["rejected"] == {"missing item id": 1, "missing user id": 1}


def test_columns_that_are_not_read_are_said(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", [(*event, "Bed", "red") for event in EVENTS], "user,item,titel,colour")
    code, _, err = ask("train", events, "--model", "item-knn", "--out", "b")
    assert code == 0
    assert "columns not read: titel, colour\n" in err


def test_what_ratings_are_taken_for_is_said_and_can_be_set(ask, tmp_path):
    rows = [(*event, str(1 + place % 5)) for place, event in enumerate(EVENTS)]
    events = csv(tmp_path / "ratings.csv", rows, "user,item,rating")
    code, out, err = ask("run", events, "--model", "item-knn", "--out", "b", "--json")
    assert code == 0
    said = "ratings of 1–5: 3 or more are positive"
    assert said in err
    assert json.loads(out)["feedback"].startswith(said)
    ask("run", events, "--model", "item-knn", "--out", "c", "--set", "feedback.positive_threshold=none")
    assert "differ in their feedback" in complaint(ask("compare", "b", "c"))
    refused = ask("train", events, "--model", "item-knn", "--set", "feedback.positive_threshold=9")
    assert "ratings.csv: no event is positive" in complaint(refused)


def test_compare_pairs_users(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    for model in ("item-knn", "random"):
        assert ask("run", events, "--model", model, "--out", model)[0] == 0
    rows = {row["metric"]: row for row in json.loads(ask("compare", "item-knn", "random", "--json")[1])}
    reports = [json.loads(ask("evaluate", one, "--json")[1])["metrics"] for one in ("item-knn", "random")]
    expected = reports[0]["ndcg_at_10"] - reports[1]["ndcg_at_10"]
    assert rows["ndcg_at_10"]["difference"] == pytest.approx(expected)
    assert ask("run", events, "--model", "random", "--out", "other", "--set", "split.seed=5")[0] == 0
    assert "differ in their split" in complaint(ask("compare", "item-knn", "other"))


def test_ctrl_c_after_training_names_the_checkpoint(ask, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("lanner.pipeline.evaluate", interrupted)
    rows = [(f"u{user}", f"i{item}") for user in range(12) for item in range(40) if (user + item) % 2]
    events = csv(tmp_path / "ratings.csv", rows)
    call = ("run", events, "--split", "random", "--out", "b", "--set", "training.epochs=1")
    code, out, err = ask(*call, "--model", "lightgcn")
    assert (code, out) == (130, "")
    assert err.endswith("lanner: stopped; the same command resumes from b.checkpoint\n")
    assert (tmp_path / "b.checkpoint").is_dir()


def test_a_folder_of_ones_own_is_neither_replaced_nor_trained_for(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    command = ("train", events, "--model", "item-knn", "--out")
    for name, manifest in {"webapp": '{"name": "shop"}', "broken": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(manifest)
        (tmp_path / name / "photo.jpg").write_text("mine")
        answer = ask(*command, name)
        assert f"{name}: holds something other than a bundle" in complaint(answer)
        assert "load" not in answer[2], "found before anything is computed"
        assert (tmp_path / name / "photo.jpg").read_text() == "mine"
    for _ in range(2):
        assert ask(*command, "b")[0] == 0
    (tmp_path / "b" / "notes.txt").write_text("mine")
    said = "b: holds files that are not part of a bundle: notes.txt; give another folder or remove it"
    assert said in complaint(ask(*command, "b"))
    assert (tmp_path / "b" / "notes.txt").exists()


def test_evaluate_refuses_what_it_would_not_read(ask, bundle):
    for asked in ("split.test=0.5", "model=ease", "training.epochs=1"):
        said = complaint(ask("evaluate", bundle, "--set", asked))
        assert f"--set {asked}: lanner evaluate reads only evaluation settings" in said


# Bad input.


def test_an_empty_dataset(ask, tmp_path):
    answer = ask("run", csv(tmp_path / "ratings.csv", []), "--model", "popularity")
    assert "ratings.csv: has no usable interactions" in complaint(answer)


@pytest.mark.parametrize("model", ["item-knn", "ease"])
def test_one_user_is_enough_for_a_bundle(ask, tmp_path, model):
    rows = [("one", f"i{item}") for item in range(9)]
    code, out, _ = ask("run", csv(tmp_path / "ratings.csv", rows), "--model", model, "--out", "b", "--json")
    assert code == 0
    assert list(json.loads(out)["recommendations"]) == ["one"]


def test_one_item_leaves_nothing_to_test_but_can_be_trained_on(ask, tmp_path):
    events = csv(tmp_path / "r.csv", [(f"u{user}", "only") for user in range(9)])
    assert "for training and 0 users to test" in complaint(ask("run", events, "--model", "ease"))
    for model in ("ease", "hybrid"):
        assert ask("train", events, "--model", model, "--out", model, *(QUICK if model == "hybrid" else ()))[0] == 0


@pytest.mark.parametrize(
    ("model", "setting"),
    [("ease", "item_knn.neighbours=20"), ("item-knn", "training.epochs=3"), ("gnn", "neural.views=['filter']")],
)
def test_a_setting_that_the_model_does_not_read_is_refused(ask, tmp_path, model, setting):
    told = complaint(ask("train", "--model", model, "--set", setting))
    assert f"--set {setting} changes nothing in this run; the model '{model}' does not read it" in told


def test_a_file_may_hold_the_settings_of_other_models(tmp_path):
    (tmp_path / "run.toml").write_text("model = 'ease'\n[item-knn]\nneighbours = 20\n")
    sets = ["ease.regularisation=3", "feedback.behaviour_weights.buy=2", "split={test=0.3}"]
    found = chosen_settings(tmp_path / "run.toml", None, None, {}, sets)
    assert (found.ease.regularisation, found.feedback.behaviour_weights, found.split.test) == (3, {"buy": 2}, 0.3)


def test_a_misspelt_key_names_the_nearest(ask, tmp_path):
    (tmp_path / "run.toml").write_text("[split]\nsede = 1\n")
    assert "unknown setting 'split.sede'; did you mean 'split.seed'?" in complaint(ask("run", "--config", "run.toml"))
    assert "did you mean 'training'?" in complaint(ask("run", "--set", "trainig.epochs=1"))
    assert "unknown model 'eas'" in complaint(ask("run", "--model", "eas"))
    assert "nowhere" in complaint(ask("run", "nowhere"))


def test_a_full_disk(ask, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    events = csv(tmp_path / "ratings.csv", EVENTS)
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in complaint(ask("train", events, "--model", "ease", "--out", "b"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ratings.csv"]


@pytest.mark.parametrize("fitting", [1, 2])
def test_ctrl_c_in_training_leaves_a_checkpoint(ask, tmp_path, monkeypatch, fitting):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    command = ("train", events, "--model", "lightgcn", "--out", "b", "--set", "training.epochs=3")
    steps, step = [], torch.optim.AdamW.step

    def interrupted(self, *arguments, **named):
        steps.append(1)
        if len(steps) == (2 if fitting == 1 else 4):
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    code, out, err = ask(*command)
    assert (code, out) == (130, "")
    assert re.search(r"lanner: training stopped .* resumes from \S*b\.checkpoint", err.strip())
    assert (tmp_path / "b.checkpoint").is_dir()
    assert not (tmp_path / "b").exists()
    assert ask(*command)[0] == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "ratings.csv"]
