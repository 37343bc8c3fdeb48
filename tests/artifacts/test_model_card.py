"""The model card of a bundle: numbers match the manifest, and the front matter is valid YAML for a hub."""

import json

import pytest
from typer.testing import CliRunner

from lanner.artifacts.bundle import read_bundle, write_compressed
from lanner.artifacts.model_card import model_card
from lanner.cli.main import app
from lanner.config import from_dict
from lanner.errors import BundleError
from lanner.pipeline import run

yaml = pytest.importorskip("yaml")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "bundle"
    return run(from_dict({"model": "item-knn", "data": {"path": "ml-latest-small"}}), path).bundle


def head_of(card):
    first, head, rest = card.split("---\n", 2)
    assert first == ""
    return yaml.safe_load(head), rest


def test_every_metric_stands_in_head_and_table_with_its_interval(measured):
    head, body = head_of(measured.card)
    report = measured.manifest["metrics"]
    (result,) = head["model-index"][0]["results"]
    assert {one["type"]: one["value"] for one in result["metrics"]} == report["metrics"]
    for name, value in report["metrics"].items():
        low, high = report["ci95"].get(name, (None, None))
        bounds = "|  |  |" if low is None else f"| {low:.4f} | {high:.4f} |"
        assert f"| {name} | {value:.4f} {bounds}" in body
    assert "671 users, 9,066 items, 100,004 events" in body
    assert f"On {report['users']:,} users; split: {measured.config['split']['name']}" in body


def test_the_terms_of_a_published_dataset_go_with_it(measured):
    assert "no commercial use without permission. They hold for this bundle" in measured.card
    assert "Harper and J. A. Konstan" in measured.card
    manifest = json.loads(json.dumps(dict(measured.manifest)))
    manifest["config"]["data"]["path"] = "recipes/ml-1m-colakg.toml"
    assert "no redistribution" in model_card(manifest)
    manifest["config"]["data"]["path"] = "/home/ada/orders.csv"
    assert "Terms: not known to Lanner" in model_card(manifest)
    assert "/home/ada" not in model_card(manifest)


def test_what_was_not_measured_is_said(measured):
    card = model_card({**measured.manifest, "metrics": {}})
    assert "Not measured" in card
    assert "model-index" not in head_of(card)[0]
    refitted = {**measured.manifest["metrics"], "measured_before_refit": True}
    assert "before the model was fitted anew" in model_card({**measured.manifest, "metrics": refitted})


def test_a_compressed_bundle_has_a_card_of_its_own(measured, tmp_path):
    path = write_compressed(tmp_path / "small", measured, [measured.variant("full")], {})
    assert "Variants: full. " in read_bundle(path).card
    assert "Variants: full, popularity. " in measured.card


def test_the_command_shows_it_and_a_changed_card_is_damaged(measured, tmp_path):
    assert CliRunner().invoke(app, ["bundles", "card", str(measured.path)]).output == measured.card
    path = write_compressed(tmp_path / "changed", measured, [measured.variant("full")], {})
    (path / "MODEL_CARD.md").write_text("best model ever")
    with pytest.raises(BundleError, match=r"MODEL_CARD.md: damaged"):
        _ = read_bundle(path).card
