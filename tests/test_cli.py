"""The commands: answers on stdout, one line for what went wrong, and the right exit code."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from lanner.cli import main as cli
from lanner.cli import options
from lanner.registry import MODELS, SPLITS

EVENTS = [(f"u{user}", f"i{item}") for user in range(12) for item in range(8) if (user * 3 + item * 5) % 7 < 4]


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    """Runs one command in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "knn"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--model", "item-knn", "--out", str(path)])
    assert not stopped.value.code
    return path


def csv(path, rows, header="user,item"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def complaint(answer):
    """The one line that a refused command leaves on stderr; progress stands before it."""
    code, out, err = answer
    lines = [line for line in err.splitlines() if not re.match(r" +[\d.]+ s  ", line)]
    assert (code, out, len(lines)) == (2, "", 1), answer
    return lines[0]


def test_help_needs_no_heavy_room():
    program = (
        "import sys\ntry:\n from lanner.cli.main import main; main(['--help'])\n"
        "except SystemExit:\n print({'torch', 'polars', 'numba', 'transformers', 'scipy'} & set(sys.modules))"
    )
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - begun)
        assert found.stdout.splitlines()[-1] == "set()"
    assert min(seconds) < 0.3


def test_help_names_every_model_and_split(ask):
    text = re.sub(r"\s+", "", ask("run", "--help")[1])
    assert all(name in text for name in (*MODELS, *SPLITS))
    assert ", ".join(MODELS) == options.MODEL_NAMES


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["train"],
        ["evaluate"],
        ["recommend"],
        ["similar"],
        ["explain"],
        ["compare"],
        ["compress"],
        ["profile"],
        ["data", "describe"],
    ],
)
def test_every_command_shows_examples(ask, command):
    code, out, _ = ask(*command, "--help")
    assert code == 0
    assert f"lanner {' '.join(command)} " in out.split("Examples:")[1]
    assert "--json" in out


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
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["config"]["model"] == "item-knn"
    code, out, _ = ask("evaluate", "b", "--json")
    assert json.loads(out)["metrics"] == pytest.approx(answer["metrics"])


def test_tables_for_people(ask, bundle):
    code, out, err = ask("recommend", bundle, "--user", "1", "-k", "3")
    assert (code, err) == (0, "")
    assert "title" in out
    assert "you chose" in out
    assert ask("similar", bundle, "--item", "260")[1].startswith("Like Star Wars")


def test_what_ratings_are_taken_for_is_said_and_can_be_set(ask, tmp_path):
    rows = [(*event, str(1 + place % 5)) for place, event in enumerate(EVENTS)]
    events = csv(tmp_path / "ratings.csv", rows, "user,item,rating")
    code, out, err = ask("train", events, "--model", "item-knn", "--out", "b", "--json")
    assert code == 0
    said = "ratings of 1–5: 3 or more are positive"
    assert said in err
    assert json.loads(out)["feedback"].startswith(said)
    ask("train", events, "--model", "item-knn", "--out", "c", "--set", "feedback.positive_threshold=none")
    assert "differ in their feedback" in complaint(ask("compare", "b", "c"))
    refused = ask("train", events, "--model", "item-knn", "--set", "feedback.positive_threshold=9")
    assert "ratings.csv: no event is positive" in complaint(refused)


def test_an_anonymous_user_by_history_and_an_explanation_that_adds_up(ask, bundle):
    items = json.loads(ask("recommend", bundle, "--history", "260, 1196", "-k", "4", "--json")[1])["items"]
    assert [item["rank"] for item in items] == [1, 2, 3, 4]
    assert not {"260", "1196"} & {item["item"] for item in items}
    found = json.loads(ask("explain", bundle, "--history", "260,1196", "--item", items[0]["item"], "--json")[1])
    assert sum(part["value"] for part in found["parts"]) == pytest.approx(found["score"], rel=1e-6)
    assert found["score"] == pytest.approx(items[0]["score"], rel=1e-5)
    assert found["sentence"].endswith(".")


def test_compare_pairs_users(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    for model in ("item-knn", "random"):
        assert ask("train", events, "--model", model, "--out", model)[0] == 0
    rows = {row["metric"]: row for row in json.loads(ask("compare", "item-knn", "random", "--json")[1])}
    reports = [json.loads(ask("evaluate", one, "--json")[1])["metrics"] for one in ("item-knn", "random")]
    expected = reports[0]["ndcg_at_10"] - reports[1]["ndcg_at_10"]
    assert rows["ndcg_at_10"]["difference"] == pytest.approx(expected)
    assert ask("train", events, "--model", "random", "--out", "other", "--set", "split.seed=5")[0] == 0
    assert "differ in their split" in complaint(ask("compare", "item-knn", "other"))


def test_describe_counts_and_keeps_what_it_set_aside(ask, tmp_path):
    events = csv(tmp_path / "ratings.csv", [*EVENTS, ("", "i1")])
    code, out, _ = ask("data", "describe", events, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["counts"]["interactions"] == len(EVENTS)
    assert sum(found["rejected"].values()) == 1
    assert (tmp_path / found["rejected_rows"]).is_file()
    assert "rejected.parquet" in ask("data", "describe", events)[1]


# Bad input.


def test_an_empty_dataset(ask, tmp_path):
    answer = ask("run", csv(tmp_path / "ratings.csv", []), "--model", "popularity")
    assert "ratings.csv: holds no interactions" in complaint(answer)


@pytest.mark.parametrize(
    ("rows", "model"),
    [([("one", f"i{item}") for item in range(9)], "item-knn"), ([("one", f"i{item}") for item in range(9)], "ease")],
)
def test_one_user_is_enough_for_a_bundle(ask, tmp_path, rows, model):
    code, out, _ = ask("run", csv(tmp_path / "ratings.csv", rows), "--model", model, "--out", "b", "--json")
    assert code == 0
    assert list(json.loads(out)["recommendations"]) == ["one"]


def test_one_item_leaves_nothing_to_test(ask, tmp_path):
    rows = [(f"u{user}", "only") for user in range(9)]
    assert "for training and 0 users to test" in complaint(ask("run", csv(tmp_path / "r.csv", rows), "--model", "ease"))


def test_no_text_at_all_for_a_model_that_reads(ask, tmp_path):
    answer = ask("run", csv(tmp_path / "ratings.csv", EVENTS), "--model", "language")
    assert "has a text" in complaint(answer)


def test_a_model_that_reads_no_texts_says_so_and_answers_with_popular_items(ask, bundle):
    code, out, err = ask("recommend", bundle, "--text", "anything", "--json")
    answer = json.loads(out)
    assert code == 0
    assert (len(answer["items"]), answer["fallback"], answer["text_ignored"]) == (10, True, True)
    assert "the model reads no texts: --text had no effect" in err
    assert "these are popular items" in err
    assert len(err.splitlines()) == 1


def test_unicode_huge_and_mixed_ids_and_duplicates(ask, tmp_path):
    odd = {"i0": "日本 語", "i1": "9" * 40, "i2": "-7", "i3": "3.50", "i4": '"Bed, double"', "i5": '"Lamp, red"'}
    rows = [(user, odd.get(item, item)) for user, item in EVENTS] * 2
    assert ask("train", csv(tmp_path / "ratings.csv", rows), "--model", "item-knn", "--out", "b")[0] == 0
    for item in (one.strip('"') for one in odd.values()):
        code, out, _ = ask("similar", "b", "--item", item, "--json")
        assert code == 0
        assert item not in {one["item"] for one in json.loads(out)["items"]}
    for history in (["Bed, double"], ["Bed, double", "Lamp, red"], ["-7,3.50"]):
        given = [part for one in history for part in ("--history", one)]
        assert json.loads(ask("recommend", "b", *given, "--json")[1])["unknown"] == []


def test_a_misspelt_key_names_the_nearest(ask, tmp_path):
    (tmp_path / "run.toml").write_text("[split]\nsede = 1\n")
    assert "unknown key 'sede'; did you mean 'seed'?" in complaint(ask("run", "--config", "run.toml"))
    assert "did you mean 'training'?" in complaint(ask("run", "--set", "trainig.epochs=1"))
    assert "unknown model 'eas'" in complaint(ask("run", "--model", "eas"))


def test_unknown_ids_paths_and_questions_without_a_user(ask, bundle):
    for question, unknown, fallback in (
        (("--user", "nobody"), ["nobody"], True),
        (("--history", "x, 260,y"), ["x", "y"], False),
    ):
        code, out, err = ask("recommend", bundle, *question, "--json")
        answer = json.loads(out)
        assert (code, answer["unknown"], answer["fallback"]) == (0, unknown, fallback)
        assert f"unknown ids were left out: {', '.join(unknown)}" in err
        assert len(err.splitlines()) == 1
    assert "unknown id 'x'" in complaint(ask("similar", bundle, "--item", "x"))
    assert "unknown id 'x'" in complaint(ask("explain", bundle, "--user", "1", "--item", "x"))
    assert "one of user, history or text is required" in complaint(ask("recommend", bundle))
    assert "exclude each other" in complaint(ask("recommend", bundle, "--user", "1", "--history", "260"))
    assert "no bundle there" in complaint(ask("recommend", "nowhere", "--user", "1"))
    assert "nowhere" in complaint(ask("run", "nowhere"))
    assert ask("recommend", bundle, "--user", "1", "-k", "0")[0] == 2


def test_one_flipped_byte(ask, tmp_path):
    assert ask("train", csv(tmp_path / "ratings.csv", EVENTS), "--model", "ease", "--out", "b")[0] == 0
    damaged = tmp_path / "b" / "full.scoring.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    assert "full.scoring.safetensors: damaged" in complaint(ask("recommend", "b", "--user", "u1"))


def test_a_full_disk(ask, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    events = csv(tmp_path / "ratings.csv", EVENTS)
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left on device" in complaint(ask("train", events, "--model", "ease", "--out", "b"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ratings.csv"]


def test_ctrl_c_in_training_leaves_a_checkpoint(ask, tmp_path, monkeypatch):
    events = csv(tmp_path / "ratings.csv", EVENTS)
    command = ("train", events, "--model", "lightgcn", "--out", "b", "--set", "training.epochs=3")
    steps = []
    step = torch.optim.AdamW.step

    def interrupted(self, *arguments, **named):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", interrupted)
    code, out, err = ask(*command)
    assert (code, out) == (130, "")
    assert re.search(r"lanner: training stopped .* resumes from \S*b\.checkpoint$", err.strip())
    assert (tmp_path / "b.checkpoint").is_dir()
    assert not (tmp_path / "b").exists()
    assert ask(*command)[0] == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["b", "ratings.csv"]


def test_ctrl_c_elsewhere_says_so(ask, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("lanner.artifacts.bundle.read_bundle", interrupted)
    assert ask("recommend", "b", "--user", "1") == (130, "", "lanner: stopped; nothing was kept\n")
