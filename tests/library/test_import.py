"""``import lanner`` is light, and only training needs torch."""

import statistics
import subprocess
import sys

import pytest

WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(program: str, *arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_import_takes_milliseconds_and_loads_no_library():
    program = """
import sys, time
begun = time.perf_counter()
import lanner
print(time.perf_counter() - begun)
heavy = {"torch", "numba", "polars", "scipy", "numpy", "narwhals", "pandas"} & sys.modules.keys()
assert not heavy, heavy
assert {"Hybrid", "load", "LannerError"} <= set(dir(lanner))
"""
    assert statistics.median(float(run(program)) for _ in range(5)) < 0.3


def test_every_public_name_is_there():
    import lanner

    assert all(getattr(lanner, name) is not None for name in lanner.__all__)
    with pytest.raises(AttributeError, match="module 'lanner' has no attribute 'Hybird'"):
        _ = lanner.Hybird
    names = dir(lanner)
    assert len(names) == len(set(names))
    assert not {"Any", "TYPE_CHECKING"} & set(names)


def test_closed_forms_are_trained_saved_loaded_evaluated_and_served_without_torch(tmp_path):
    program = (
        WITHOUT_TORCH
        + """
import asyncio
from pathlib import Path
import polars as pl
import lanner

folder = Path(sys.argv[1])
pairs = [(user, item) for user in range(20) for item in range(10) if (user + item) % 3]
events = pl.DataFrame(pairs, schema=["user", "item"], orient="row")
split = lanner.Dataset.from_frames(events).split("random")
for model in (lanner.Random(), lanner.Popularity(), lanner.EASE(), lanner.GraphFilter(), lanner.ItemKNN()):
    model.fit(split.train)
assert lanner.evaluate(model, split.test, ["ndcg@3"]).metrics
loaded = lanner.load(model.save(folder / "bundle"))
assert loaded.recommend(users=[1], k=2).equals(model.recommend(users=[1], k=2))
titles = pl.DataFrame({"item": range(10), "title": [f"title {item}" for item in range(10)]})
readable = lanner.Dataset.from_frames(events, items=titles, text=("title",))
for model, train in ((lanner.GNN(), split.train), (lanner.Hybrid(), split.train), (lanner.Hybrid(), readable)):
    try:
        model.fit(train)
    except lanner.MissingExtraError as error:
        print(error)

from lanner.cli.main import app
app(["recommend", str(folder / "bundle"), "--user", "1"], standalone_mode=False)

from lanner.serving.bootstrap import ServerConfig, check
from lanner.serving.deployment import Deployment
from lanner.serving.messages import RecommendRequest
from lanner.serving.store import open_store
check(ServerConfig(str(folder / "bundle"), str(folder / "events.db")))
deployment = Deployment.open(folder / "bundle", open_store(str(folder / "events.db")))
deployment.warm_up()
answer = asyncio.run(deployment.recommend(RecommendRequest(user_id="1", k=2, deadline_ms=10_000)))
assert [int(one.item_id) for one in answer.items] == loaded.recommend(users=[1], k=2)["item_id"].to_list()
assert "torch" not in sys.modules
"""
    )
    pytest.importorskip("faiss")
    told = run(program, str(tmp_path))
    assert "the model 'gnn' needs the package 'torch'; install it with: pip install 'lanner[train]'" in told
    hybrid = "the model 'hybrid' needs the package 'torch'; install it with: pip install 'lanner[{}]'"
    assert [hybrid.format(extra) in told for extra in ("train", "language")] == [True, True]
