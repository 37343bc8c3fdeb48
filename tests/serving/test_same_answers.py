"""One path to an answer: the trained model, the library, the command line and the server agree item by item."""

import json
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from running import PATIENT, events, ids, running
from small_shop import WORDS, language_model

from lanner.artifacts.bundle import Bundle
from lanner.cli import main as cli
from lanner.config import from_dict
from lanner.library import Model, load
from lanner.pipeline import run
from lanner.registry import MODELS
from lanner.serving.messages import ExplainRequest, RecommendRequest

USERS, ITEMS, GROUPS = 24, 36, 3
TEXT = " ".join(WORDS[12:18])
RECIPE = """
name = "shop"
folder = "."
[interactions]
file = "events.csv"
user = "user"
item = "item"
weight = "rating"
[items]
file = "items.csv"
id = "item"
title = "title"
text = ["{title}", "{about}"]
[users]
file = "users.csv"
id = "user"
text = ["{likes}"]
"""
TIES = """
[ties]
file = "ties.csv"
user = "user"
friend = "friend"
"""


def write_dataset(folder: Path, ties: bool) -> Path:
    random = np.random.default_rng(0)
    text = lambda group: " ".join(random.choice(WORDS[group * 12 : group * 12 + 14], 6))

    def write(name: str, header: str, rows: list[str]) -> None:
        (folder / name).write_text("\n".join([header, *rows]) + "\n")

    ratings = []
    for user in range(USERS):
        own = random.choice(ITEMS // GROUPS, 6, replace=False) + user % GROUPS * (ITEMS // GROUPS)
        ratings += [f"u{user},i{item},{random.integers(4, 6)}" for item in own]
        ratings += [f"u{user},i{random.integers(ITEMS // GROUPS) + (user + 1) % GROUPS * (ITEMS // GROUPS)},1"]
    write("events.csv", "user,item,rating", ratings)
    write("items.csv", "item,title,about", [f"i{n},title {n},{text(n // 12)}" for n in range(ITEMS)])
    write("users.csv", "user,likes", [f"u{n},{text(n % GROUPS) if n % 2 else ''}" for n in range(USERS)])
    write("ties.csv", "user,friend", [f"u{n},u{(n + GROUPS) % USERS}" for n in range(USERS)])
    (folder / "shop.toml").write_text(RECIPE + TIES * ties)
    return folder / "shop.toml"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return language_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=[False, True], ids=["no ties", "ties"])
def dataset(request, tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), request.param)


@pytest.fixture(scope="module", params=[name for name in MODELS if name != "random"])
def trained(request, dataset, encoder, tmp_path_factory) -> Bundle:
    sizes = {"dimensions": 8, "language_dimensions": 8, "filter_rank": 8, "word_dimensions": 8}
    config = {
        "model": request.param,
        "data": {"path": str(dataset)},
        "neural": {**sizes, "encoder": {"model": str(encoder), "cache": False, "dtype": "float32", "max_tokens": 32}},
        "training": {"epochs": 2, "batch_users": 16, "device": "cpu"},
        "ials": {"factors": 8},
    }
    return run(from_dict(config), tmp_path_factory.mktemp("trained") / "bundle", measure=False).bundle


QUESTIONS = [
    {"user": "u1"},
    {"user": "u2", "text": TEXT},
    {"user": "nobody"},
    {"history": ["i1", "i14", "i2"]},
    {"history": ["i3", "unheard"], "text": TEXT},
    {"text": TEXT},
]


def said(capsys, *arguments: object) -> dict:
    with suppress(SystemExit):
        cli.main([str(one) for one in arguments])
    return json.loads(capsys.readouterr().out)


def asked_of(library: Model, k: int, **question: object) -> tuple[list[dict], tuple[bool, list[str], bool]]:
    """The items that the library recommends, and what it notes."""
    names = {"user": "users", "history": "histories", "text": "texts"}
    with warnings.catch_warnings(action="ignore"):
        frame = library.recommend(**{names[name]: [value] for name, value in question.items()}, k=k)
    return frame.to_dicts(), (bool(frame.notes.fallback), sorted(frame.notes.unknown), frame.notes.text_ignored)


async def test_library_command_line_and_server_list_the_same_items(trained, tmp_path, capsys):
    library = load(trained.path)
    async with running(trained.path, tmp_path / "events.db") as service:
        for question in QUESTIONS:
            expected, noted = asked_of(library, 12, **question)
            options = []
            for name, value in question.items():
                options += [f"--{name}", ",".join(value) if name == "history" else value]
            told = said(capsys, "recommend", trained.path, *options, "-k", 12, "--json")
            asked = {("user_id" if name == "user" else name): value for name, value in question.items()}
            for explain in (False, True):  # inline, and in a thread
                answer = await service.recommend(RecommendRequest(k=12, explain=explain, **asked))
                assert ids(answer) == [one["item_id"] for one in expected] == [one["item"] for one in told["items"]]
                scores = [one["score"] for one in expected]
                assert [item.score for item in answer.items] == pytest.approx(scores, rel=1e-4, abs=1e-5)
                assert [item.title for item in answer.items] == [one["title"] for one in expected]
                about = (answer.fallback, sorted(answer.unknown), answer.text_ignored)
                assert about == noted
                assert about == (told["fallback"], sorted(told["unknown"]), told["text_ignored"])
            assert [item.because for item in answer.items] == [one["because"] for one in expected]


async def test_what_is_served_is_what_was_evaluated(trained, tmp_path):
    """The recommender's own answers for known users, by the batch that evaluation asks it."""
    dataset = trained.dataset
    batch = dataset.user_batch()
    expected = trained.recommender.recommend(batch, k=10)
    async with running(trained.path, tmp_path / "events.db") as service:
        for row, user_id in enumerate(dataset.users.external):
            answer = await service.recommend(RecommendRequest(user_id=user_id))
            wanted = [dataset.items.external[item] for item in expected.items[row] if item >= 0]
            scores = expected.scores[row][: len(wanted)]
            assert [item.score for item in answer.items] == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-5)
            for item_id, other, score in zip(ids(answer), wanted, scores, strict=True):
                # Sums in another order may swap two items of equal scores.
                assert item_id == other or (np.abs(scores - score) < 1e-5 * np.abs(scores).max()).sum() > 1
            assert not {dataset.items.row(item_id) for item_id in ids(answer)} & set(dataset.seen[row].tolist())


async def test_similar_items_and_explanations_are_the_same(trained, tmp_path, capsys):
    library = load(trained.path)
    async with running(trained.path, tmp_path / "events.db") as service:
        similar = await service.similar_items("i5", 6)
        told = said(capsys, "similar", trained.path, "--item", "i5", "-k", 6, "--json")
        expected = library.similar_items(["i5"], 6)
        assert ids(similar) == expected["item_id"].to_list() == [one["item"] for one in told["items"]]
        assert similar.fallback == bool(expected.notes.fallback) == told["fallback"]
        explained = await service.explain(ExplainRequest(item_id="i7", user_id="u1", text=TEXT))
        wanted = library.explain("u1", "i7", text=TEXT)
        assert explained.item.score == pytest.approx(wanted.score, rel=1e-4, abs=1e-5)
        assert [(one.kind, one.name) for one in explained.item.reasons] == [
            (one.kind, one.name) for one in wanted.parts
        ]
        assert explained.fallback == wanted.fallback


async def test_an_event_counts_as_it_would_have_in_training(trained, tmp_path):
    """A rating of 5 speaks for an item and one of 1 does not; both are seen."""
    async with running(trained.path, tmp_path / "events.db", PATIENT) as service:
        await events(service, "new", "i3", weight=5.0)
        await events(service, "new", "i20", weight=1.0)
        served = await service.recommend(RecommendRequest(user_id="new", k=40, explain=True))
        assert not {"i3", "i20"} & {*ids(served)}
        named = {reason.name for item in served.items for reason in item.reasons if reason.kind == "history"}
        assert named <= {"title 3"}
