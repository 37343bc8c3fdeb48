"""From a bundle to its ladder and to answers, with a language model made on the fly."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_shop import QUICK, WORDS, make_shop

from lanner.artifacts.ladder import read_ladder
from lanner.cli import main as cli
from lanner.compress import compress
from lanner.compression.encoder import EncoderRecipe
from lanner.compression.steps import Budget
from lanner.config import EvaluationConfig, RunConfig, from_dict
from lanner.data.ragged import Ragged
from lanner.errors import BundleError, ConfigError
from lanner.pipeline import open_bundle, run
from lanner.serving.backends import open_backend
from lanner.serving.engine import Engine

for library in ("onnxruntime", "openvino", "nncf", "faiss"):
    pytest.importorskip(library, reason="an extra of compression is not installed")
transformers = pytest.importorskip("transformers", reason="the extra 'language' is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the extra 'language' is not installed")


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def ladder(shop):
    return compress(shop, Budget(max_ndcg_loss=0.2), QUICK, lambda rung, *_: {"seen": rung.name})


def test_the_ladder_has_every_rung_and_says_what_was_tried(shop, ladder):
    assert ladder.names == ("full", "int8", "pruned", "distilled", "popularity")
    assert read_ladder(shop).table == ladder.table
    assert ladder.table["report"]["steps"][0]["name"] == "full"
    assert all(facts["figures"]["seen"] == name for name, facts in ladder.table["rungs"].items())
    assert ladder.rung("distilled").num_bytes < ladder.rung("full").num_bytes / 2
    assert ladder.rung("pruned").figures["encoder_shape"]["heads"] == [2]
    assert all(0 <= facts["figures"]["ndcg_at_10"] <= 1 for facts in ladder.table["rungs"].values())
    kept = [name for name in ladder.names if ladder.rung(name).figures["kept"]]
    assert ladder.table["report"]["best"] in kept


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino", "numba"])
def test_the_full_rung_is_the_model(shop, ladder, backend):
    bundle = open_bundle(shop)
    users = bundle.dataset.user_batch(np.arange(10))
    runtime = open_backend(backend, ladder.rung("full"), ladder.reader, 1)
    assert np.allclose(runtime.score(users), bundle.recommender.score(users), atol=1e-3)


@pytest.mark.parametrize("name", ["int8", "pruned", "distilled"])
def test_smaller_rungs_agree_between_runtimes(shop, ladder, name):
    users = open_bundle(shop).dataset.user_batch(np.arange(10))
    rung, reader = ladder.rung(name), ladder.reader
    wanted = open_backend("torch", rung, reader, 1).score(users)
    for backend in ("onnxruntime", "openvino", "numba"):
        got = open_backend(backend, rung, reader, 1).score(users)
        assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.99


def test_the_engine_answers_a_stranger_by_text(shop, ladder):
    rung = ladder.rung("distilled")
    engine = Engine(rung, open_backend("onnxruntime", rung, ladder.reader, 1))
    plain, told = engine.answer([1, 2], k=5), engine.answer([1, 2], k=5, profile=" ".join(WORDS[20:30]))
    assert len(told.items) == 5
    assert not np.allclose(plain.scores, told.scores)


def test_the_index_of_a_bundle_is_asked_as_the_bundle_is(shop, ladder):
    bundle = open_bundle(shop)
    engine = Engine(ladder.rung("full"), candidates=1000)
    for history in ([3], [1, 2, 30]):
        users = replace(bundle.dataset.user_batch(np.array([0])), history=Ragged.from_lists([history]), profiles=None)
        wanted = bundle.recommender.recommend(users, 5).items[0]
        assert engine.answer(history, k=5).items.tolist() == wanted.tolist()


def test_the_commands(shop, ladder, capsys, tmp_path):
    for arguments in (
        ["compress", shop, "--seconds", "1", "--max-ndcg-loss", "0.5", "--threads", "1", "--json"],
        [
            "profile",
            shop,
            "--variant",
            "int8",
            "--requests",
            "5",
            "--text",
            "w3 w4",
            "--plot",
            tmp_path / "t.svg",
            "--json",
        ],
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(one) for one in arguments])
        assert not stopped.value.code
        found = json.loads(capsys.readouterr().out)
    assert {one["stage"] for one in found["stages"]} >= {"gather", "aggregate", "encode", "fuse", "retrieve", "explain"}
    assert (tmp_path / "t.svg").read_text().startswith("<?xml")
    assert set(read_ladder(shop).rung("full").figures["latency"]) == {"torch", "onnxruntime", "openvino", "numba"}
    tried = read_ladder(shop).table["report"]["tried"]
    assert list(tried["bf16"]["latency"]) == ["torch"]
    assert tried["bf16"]["latency"]["torch"]["cosine"] == pytest.approx(1, abs=0.02)
    assert tried["bf16"]["encoder_mib"] < 0.7 * read_ladder(shop).rung("full").figures["encoder_mib"]
    assert 0.5 < tried["int8-static"]["latency"]["onnxruntime"]["cosine"] <= 1.001


def test_a_model_that_reads_no_texts_has_a_ladder_too(shop, tmp_path):
    settings = open_bundle(shop).config | {"model": "gnn-filter"}
    run(from_dict(settings), tmp_path / "graph", measure=False)
    ladder = compress(tmp_path / "graph", Budget(max_ndcg_loss=0.2), QUICK)
    assert ladder.reader is None
    rung = ladder.rung("distilled")
    assert len(Engine(rung, open_backend("onnxruntime", rung, None, 1)).answer([1], k=4).items) == 4
    with pytest.raises(ConfigError, match="reads no profile texts"):
        Engine(rung).answer([1], profile="w3")


def test_a_model_without_a_compressed_form_is_refused(tmp_path):
    run(RunConfig(model="item-knn", evaluation=EvaluationConfig()), tmp_path / "knn", measure=False)
    with pytest.raises(ConfigError, match="'item-knn' has no compressed form"):
        compress(tmp_path / "knn")
    with pytest.raises(BundleError, match="lanner compress"):
        read_ladder(tmp_path / "knn")


def test_an_interrupted_recipe_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="seconds"):
        EncoderRecipe(seconds=0)
    with pytest.raises(ConfigError, match="layers"):
        EncoderRecipe(layers=0)
