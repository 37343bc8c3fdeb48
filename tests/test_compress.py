"""From a bundle to a compressed one and to answers, with a small language model built in the test."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_shop import QUICK, WORDS, make_shop
from stand_ins import DrawnRecommender, small_world

from lanner.accelerators.contract import contract_of
from lanner.artifacts.bundle import Bundle, read_bundle
from lanner.artifacts.variants import Variant
from lanner.compress import _with_contract, best_variant, compress
from lanner.compression.encoder import EncoderRecipe
from lanner.compression.steps import Budget, quantised
from lanner.config import RunConfig, SplitConfig, from_dict
from lanner.encoders import open_text_reader
from lanner.errors import BundleError, ConfigError
from lanner.evaluation.protocol import evaluate
from lanner.inference.ranker import Query, Ranker
from lanner.inference.scoring_model import popularity_model
from lanner.inference.tables import Int8Rows
from lanner.models.item_knn import ItemKNN
from lanner.pipeline import open_bundle, run
from lanner.registry import SPLITS
from lanner.serving.profile import STAGES, draw, machine_ceilings, profile

for library in ("onnxruntime", "openvino", "nncf", "faiss", "transformers", "tokenizers"):
    pytest.importorskip(library, reason="an extra of compression is not installed")

LENIENT = Budget(max_ndcg_loss=0.2)
HISTORY = np.array([1, 2, 30])


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def contents(shop) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in shop.iterdir()}


@pytest.fixture(scope="module")
def compressed(shop, contents) -> Bundle:
    return compress(shop, budget=LENIENT, recipe=QUICK, threads=1)


def test_a_new_bundle_has_every_variant_and_the_old_one_is_not_touched(shop, contents, compressed):
    assert compressed.path == shop.with_name("bundle-compressed")
    assert {file.name: file.read_bytes() for file in shop.iterdir()} == contents
    assert read_bundle(shop).variants == ("full", "popularity")
    assert compressed.variants == ("full", "int8", "pruned", "distilled", "popularity")
    assert compressed.verify() == 5 * 8, "every variant answers its golden requests"
    assert compressed.variant("distilled").num_bytes < compressed.variant("full").num_bytes / 2
    assert compressed.variant("pruned").figures["encoder_shape"]["heads"] == [2]


def test_what_was_found_is_written_down(compressed):
    report, figures = compressed.report, {name: compressed.variant(name).figures for name in compressed.variants}
    assert report["steps"][0]["name"] == "full"
    assert report["best"] in [name for name, found in figures.items() if found["kept"]]
    assert set(report["processor"]) == {"cpu", "vnni"}
    config = from_dict(compressed.config)
    assert report["validation_users"] == len(SPLITS[config.split.name](compressed.dataset, config.split).validation)
    for name, found in figures.items():
        assert 0 <= found["ndcg_at_10"] <= 1
        assert set(found["rank_p50_ms"]) == {"1", "8", "64"}
        runtimes = set() if name == "popularity" else {"torch", "onnxruntime", "openvino"}
        assert set(found.get("encode", {})) == runtimes
    for backend, found in figures["int8"]["encode"].items():
        assert found["cosine"] == pytest.approx(1, abs=0.05), backend


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_the_full_variant_is_the_model(shop, compressed, backend):
    bundle = open_bundle(shop)
    users = bundle.dataset.user_batch(np.arange(10))
    for variant, texts in ((read_bundle(shop).variant(), read_bundle(shop).text_files), (compressed.variant(), None)):
        reader = open_text_reader(variant, texts or compressed.text_files, backend)
        scores = variant.model.score(users, reader.features(users.profiles))
        assert np.allclose(scores, bundle.recommender.score(users), atol=1e-3)


@pytest.mark.parametrize("name", ["int8", "pruned", "distilled"])
def test_smaller_variants_agree_between_runtimes(compressed, name):
    variant, users = compressed.variant(name), compressed.dataset.user_batch(np.arange(10))
    scores = [
        variant.model.score(users, open_text_reader(variant, compressed.text_files, backend).features(users.profiles))
        for backend in ("torch", "onnxruntime", "openvino")
    ]
    for found in scores[1:]:
        assert np.corrcoef(found.ravel(), scores[0].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("name", ["full", "int8", "pruned", "distilled"])
def test_a_text_changes_the_answer_of_every_variant_that_reads_texts(compressed, name):
    variant = compressed.variant(name)
    ranker = Ranker(variant.model, reader=open_text_reader(variant, compressed.text_files))
    texts = (None, " ".join(WORDS[20:30]), " ".join(WORDS[:10]))
    found = ranker.rank([Query(HISTORY, seen=HISTORY, text=text, k=5) for text in texts])
    assert all(len(ranking.items) == 5 for ranking in found)
    for one, other in ((0, 1), (1, 2)):
        assert not np.allclose(found[one].scores, found[other].scores)


def test_a_bundle_is_opened_and_asked_without_torch(compressed):
    script = f"""
import sys
from pathlib import Path
from lanner.artifacts.bundle import read_bundle
from lanner.encoders import open_text_reader
from lanner.inference.ranker import Query, Ranker
bundle = read_bundle(Path({str(compressed.path)!r}))
variant = bundle.variant("int8")
ranker = Ranker(variant.model, reader=open_text_reader(variant, bundle.text_files, "onnxruntime"))
assert bundle.dataset.num_items == bundle.item_reader.texts.features(slice(None)).shape[0] == 60
assert len(ranker.rank([Query(text="w3 w4", k=3)])[0].items) == 3
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_time_of_a_request_is_shown_by_stage(compressed, tmp_path):
    found = profile(compressed, ["int8", "popularity"], requests=5, text="w3 w4", backend="onnxruntime")
    assert [one.stage for one in found["int8"]] == list(STAGES)
    assert [one.stage for one in found["popularity"]] == ["aggregate"]
    ceilings = machine_ceilings()
    assert all(one.p50_ms > 0 and one.bound_ms(ceilings) >= 0 for times in found.values() for one in times)
    draw(tmp_path / "time.svg", found)
    assert (tmp_path / "time.svg").read_text().startswith("<?xml")


def test_a_model_that_reads_no_texts_is_compressed_too(shop, tmp_path):
    settings = open_bundle(shop).config | {"model": "gnn"}
    run(from_dict(settings), tmp_path / "graph", measure=False)
    found = compress(tmp_path / "graph", tmp_path / "small", LENIENT, QUICK, threads=0)
    assert found.text_files is None
    assert found.variants == ("full", "int8", "pruned", "distilled", "popularity")
    assert not any(has_contract(found, name) for name in found.variants)  # it reads attributes of users
    assert len(Ranker(found.variant("distilled").model).rank([Query(np.array([1]), k=4)])[0].items) == 4


@pytest.mark.parametrize(
    ("model", "variants", "in_integers"),
    [
        ("item-knn", ("full", "popularity"), ["full"]),
        ("ease", ("full", "popularity"), ["full"]),
        ("ials", ("full", "int8", "popularity"), []),  # its users are solved for, in floats
        ("popularity", ("full",), []),
    ],
)
def test_every_model_can_be_compressed(tmp_path, model, variants, in_integers):
    run(RunConfig(model=model), tmp_path / "bundle", measure=False)
    found = compress(tmp_path / "bundle", budget=LENIENT, threads=0)
    assert found.variants == variants
    assert found.verify() == 8 * len(variants)
    if "int8" in variants:
        assert isinstance(found.variant("int8").model.target_ID, Int8Rows)
    stated = {name: found.variant(name).figures["contract"] for name in variants if has_contract(found, name)}
    assert list(stated) == in_integers
    for name, contract in stated.items():
        again = contract_of(found.variant(name).model, found.dataset, contract)
        assert again.digest == contract["sha256"] == contract_of(found.variant(name).model, found.dataset).digest


def test_a_variant_of_int8_tables_states_its_integer_contract():
    dataset = small_world()
    model = DrawnRecommender(dataset, 0).scoring_model
    assert "contract" not in _with_contract(Variant("full", model), dataset).figures
    int8 = _with_contract(Variant("int8", quantised(model), figures={"kept": True}), dataset)
    assert int8.figures["kept"]
    stated = json.loads(json.dumps(int8.figures["contract"]))
    assert contract_of(int8.model, dataset, stated).digest == stated["sha256"]
    embeddings = _with_contract(Variant("embeddings-8", model), dataset)  # in floats; the contract rounds them
    assert embeddings.figures["contract"] == stated
    assert contract_of(embeddings.model, dataset, stated).digest == stated["sha256"]
    tables = replace(int8.model.target_ID, codes=-int8.model.target_ID.codes)
    with pytest.raises(BundleError, match="states the integer contract"):
        contract_of(replace(int8.model, target_ID=tables), dataset, stated)


def has_contract(bundle, variant):
    return "contract" in bundle.variant(variant).figures


def test_a_bundle_cannot_be_compressed_into_itself(shop, contents):
    with pytest.raises(ConfigError, match=f"overlaps the bundle {shop}; choose another folder"):
        compress(shop, shop)
    assert {file.name: file.read_bytes() for file in shop.iterdir()} == contents


def test_a_recipe_that_cannot_be_is_refused_before_any_work():
    with pytest.raises(ConfigError, match="seconds"):
        EncoderRecipe(seconds=0)
    with pytest.raises(ConfigError, match="layers"):
        EncoderRecipe(layers=0)


def test_closed_forms_are_evaluated_on_events_they_never_saw(tmp_path):
    config = RunConfig(model="item-knn")
    dataset = run(config, tmp_path / "bundle", measure=False).bundle.dataset
    split = SPLITS[config.split.name](dataset, config.split)
    unaware = evaluate(ItemKNN(config.item_knn).fit(split.train), split.validation, ks=(10,), metrics=("ndcg",))
    found = compress(tmp_path / "bundle", threads=0)
    assert found.variant("full").figures["ndcg_at_10"] == pytest.approx(unaware["ndcg_at_10"])


@pytest.mark.parametrize(("int8_kept", "best"), [(True, "int8"), (False, "full")])
def test_the_popular_items_are_never_the_best_variant(int8_kept, best):
    full = DrawnRecommender(small_world(), 0).scoring_model
    popular = popularity_model(full.popularity_I, full.dimensions)
    variants = [
        Variant("full", full, figures={"kept": True}),
        Variant("int8", quantised(full), figures={"kept": int8_kept}),
        Variant("popularity", popular, figures={"kept": True}),
    ]
    assert min(variants, key=lambda one: one.num_bytes).name == "popularity"
    assert best_variant(variants, "size") == best


def test_a_network_trained_on_every_event_is_refused(shop, tmp_path):
    settings = from_dict(open_bundle(shop).config | {"model": "gnn"})
    for name, split, refit in (("all", "none", False), ("refit", "random", True)):
        run(replace(settings, split=SplitConfig(split)), tmp_path / name, measure=False, refit=refit)
        with pytest.raises(
            BundleError, match=r"trained on every event.* lanner run without --refit: lanner run .* gnn"
        ):
            compress(tmp_path / name, threads=0)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all", "refit"]


def test_without_validation_users_there_is_nothing_to_measure(shop, tmp_path):
    settings = from_dict(open_bundle(shop).config | {"model": "item-knn"})
    run(replace(settings, split=SplitConfig("random", validation=0.0)), tmp_path / "bundle", measure=False)
    with pytest.raises(BundleError, match=r"no validation users .* --set split\.validation=0\.1"):
        compress(tmp_path / "bundle", threads=0)


def test_a_closed_form_of_every_event_is_measured_without_the_validation_events(shop, tmp_path):
    config = replace(from_dict(open_bundle(shop).config | {"model": "item-knn"}), split=SplitConfig("none"))
    dataset = run(config, tmp_path / "bundle", measure=False).bundle.dataset
    split = SPLITS["none"](dataset, config.split)
    unaware = evaluate(ItemKNN(config.item_knn).fit(split.train), split.validation, ks=(10,), metrics=("ndcg",))
    found = compress(tmp_path / "bundle", threads=0)
    assert found.variant("full").figures["ndcg_at_10"] == pytest.approx(unaware["ndcg_at_10"])


def test_the_whole_model_as_embeddings_is_a_variant(shop, tmp_path):
    found = compress(shop, tmp_path / "small", LENIENT, QUICK, threads=0, dimensions=8)
    assert found.variants[-2:] == ("embeddings-8", "popularity")
    variant = found.variant("embeddings-8")
    assert (variant.model.dimensions, variant.model.item_to_item, variant.model.head) == (8, None, None)
    assert found.report["steps"][-2]["name"] == "embeddings-8"
    ranker = Ranker(variant.model, reader=open_text_reader(variant, found.text_files))
    texts = (None, " ".join(WORDS[20:30]), " ".join(WORDS[:10]))
    scores = [one.scores for one in ranker.rank([Query(HISTORY, seen=HISTORY, text=text, k=5) for text in texts])]
    assert not np.allclose(scores[0], scores[1])
    assert not np.allclose(scores[1], scores[2])
