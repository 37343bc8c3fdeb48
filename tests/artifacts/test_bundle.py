"""The bundle: lossless round trips, corruption is detected, and interrupted writes leave nothing."""

import errno
import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from lanner.artifacts.bundle import _MANIFEST_KEYS, CHECKSUM, MANIFEST, read_bundle, write_bundle, write_compressed
from lanner.artifacts.variants import Variant
from lanner.data.catalogue import Attribute, Catalogue
from lanner.data.describe import fingerprint
from lanner.data.feedback import Feedback, FeedbackConfig
from lanner.data.ids import IdMap
from lanner.data.interactions import Dataset, Interactions
from lanner.data.ragged import Ragged
from lanner.errors import BundleError, ConfigError, StorageError
from lanner.models.ease import EASE


def small_dataset() -> Dataset:
    user, item = np.array([0, 0, 1, 1, 2, 2, 0], np.int32), np.array([0, 1, 1, 2, 2, 3, 3], np.int32)
    return Dataset(
        interactions=Interactions(
            user,
            item,
            timestamp=np.arange(7, dtype=np.int64),
            weight=np.linspace(1, 5, 7).astype(np.float32),
            behaviour=np.array([0, 1, 0, 1, 0, 1, 0], np.uint8),
            behaviours=("view", "buy"),
        ),
        users=IdMap(["anna", "7", "ünï", "without history"]),
        items=IdMap(["a", "b", "c", "d", "9" * 30]),
        item_catalogue=Catalogue(
            texts=("one", "", "zwei ✓", "four", ""),
            titles=("A", "B", "C", "D", "E"),
            attributes={"genre": Attribute(("drama", "comedy"), Ragged.from_lists([[0], [0, 1], [], [1], []]))},
        ),
        user_catalogue=Catalogue(
            texts=("",) * 4,
            titles=("anna", "7", "ünï", "without history"),
            attributes={"age": Attribute(("20 … 30", "31"), Ragged.from_lists([[0], [], [1], [0]]), (20.0, 31.0))},
        ),
        ties=Ragged.from_lists([[1], [0, 2], [], []]),
        links=Ragged.from_lists([[1], [], [], [0], []]),
        rejected={"missing user": 2},
        has_order=True,
    )


@pytest.fixture
def fitted():
    mask = np.array([True] * 6 + [False])
    dataset = small_dataset()
    return EASE().fit(dataset.with_interactions(dataset.interactions.take(mask))), dataset, mask


def write(path, fitted, **changes):
    recommender, dataset, mask = fitted
    parts = {"dataset": dataset, "fitted": mask, "config": {"model": "ease"}, "metrics": {"ndcg_at_10": 0.5}}
    return write_bundle(path, recommender, **(parts | changes))


def read(path):
    return read_bundle(path, lambda name: EASE())


def test_everything_comes_back(tmp_path, fitted):
    bundle = read(write(tmp_path / "bundle", fitted))
    recommender, dataset, _ = fitted
    assert fingerprint(bundle.dataset) == fingerprint(dataset) == bundle.manifest["dataset"]["fingerprint"]
    assert fingerprint(bundle.recommender.dataset) == fingerprint(recommender.dataset)
    assert bundle.dataset.rejected == dataset.rejected
    assert bundle.dataset.user_catalogue.attributes["age"].edges == (20.0, 31.0)
    np.testing.assert_array_equal(
        bundle.recommender.score(dataset.user_batch()), recommender.score(dataset.user_batch())
    )
    assert bundle.manifest["metrics"] == {"ndcg_at_10": 0.5}
    assert bundle.verify() == 6


def test_every_variant_answers_its_golden_requests(tmp_path, fitted, monkeypatch):
    bundle = read(write(tmp_path / "bundle", fitted))
    assert bundle.variants == ("full", "popularity")
    popular = bundle.variant("popularity")
    worse = replace(popular.model, popularity_I=popular.model.popularity_I[::-1].copy())
    of_variant = lambda self, name: replace(popular, model=worse) if name == "popularity" else original(self, name)
    original = type(bundle).variant
    monkeypatch.setattr(type(bundle), "variant", of_variant)
    with pytest.raises(BundleError, match="variant 'popularity' failed golden request 0"):
        bundle.verify()


FILES = (
    *("model.safetensors", "golden.json", "full.scoring.safetensors", "popularity.scoring.safetensors"),
    *("events.parquet", "users.parquet", "items.parquet", "attributes.parquet", "lists.safetensors"),
    "MODEL_CARD.md",
)


def test_these_are_all_files(tmp_path, fitted):
    path = write(tmp_path / "bundle", fitted)
    assert {one.name for one in path.iterdir()} == {*FILES, MANIFEST, CHECKSUM}


@pytest.mark.parametrize("name", [*FILES, MANIFEST, CHECKSUM])
def test_one_flipped_byte_is_named(tmp_path, fitted, name):
    path = write(tmp_path / "bundle", fitted)
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(BundleError) as error:
        read(path).verify()
    assert (name if name != CHECKSUM else "manifest") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*FILES, CHECKSUM])
def test_a_missing_file_is_named(tmp_path, fitted, name):
    path = write(tmp_path / "bundle", fitted)
    (path / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read(path).verify()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"schema": "two"}', b'{"schema": 4}', b'{"schema": 5}']
)
def test_a_manifest_that_is_none_is_refused_in_one_line(tmp_path, fitted, content):
    path = write(tmp_path / "bundle", fitted)
    (path / MANIFEST).write_bytes(content)
    (path / CHECKSUM).write_text(hashlib.sha256(content).hexdigest())
    with pytest.raises(BundleError) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_compressed_bundle_is_another_bundle(tmp_path, fitted):
    bundle = read(write(tmp_path / "bundle", fitted))
    before = {one.name: one.read_bytes() for one in bundle.path.iterdir()}
    small = Variant("int8", bundle.variant("popularity").model, {"encoder.onnx": b"graph"}, {"kept": True})
    variants = [bundle.variant("full"), small]
    made = read(write_compressed(tmp_path / "small", bundle, variants, {"best": "int8"}))
    assert before == {one.name: one.read_bytes() for one in bundle.path.iterdir()}
    assert made.version != bundle.version
    assert made.variants == ("full", "int8")
    assert made.report == {"best": "int8"}
    assert made.variant("int8").files["encoder.onnx"] == b"graph"
    assert made.verify() == 6
    np.testing.assert_array_equal(
        made.recommender.score(made.dataset.user_batch()), bundle.recommender.score(made.dataset.user_batch())
    )


def test_feedback_is_applied_to_what_is_read(tmp_path, fitted):
    dataset = small_dataset()
    feedback = Feedback.decide(dataset.interactions, FeedbackConfig(positive_threshold=3.0))
    bundle = read(write(tmp_path / "bundle", fitted, feedback=feedback))
    assert bundle.feedback == feedback
    assert len(bundle.dataset.histories.values) < len(bundle.dataset.seen.values) == 7


def test_no_bundle_and_another_schema(tmp_path, fitted, monkeypatch):
    with pytest.raises(BundleError, match="not a bundle"):
        read(tmp_path / "nowhere")
    monkeypatch.setattr("lanner.artifacts.bundle.SCHEMA", 99)
    path = write(tmp_path / "bundle", fitted)
    monkeypatch.undo()
    with pytest.raises(BundleError, match="schema 99"):
        read(path)


def test_a_full_disk_leaves_the_old_bundle_and_nothing_else(tmp_path, fitted, monkeypatch):
    path = write(tmp_path / "bundle", fitted)
    writes = []

    def full(descriptor):
        writes.append(descriptor)
        if len(writes) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write(path, fitted, metrics={"new": 1.0})
    assert [one.name for one in tmp_path.iterdir()] == ["bundle"]
    assert read(path).manifest["metrics"] == {"ndcg_at_10": 0.5}


def test_a_bundle_is_replaced_and_other_folders_are_not(tmp_path, fitted):
    path = write(tmp_path / "bundle", fitted)
    write(path, fitted, metrics={"new": 1.0})
    assert read(path).manifest["metrics"] == {"new": 1.0}
    other = tmp_path / "precious"
    other.mkdir()
    (other / "photo.jpg").write_text("x")
    with pytest.raises(StorageError, match="something other than a bundle"):
        write(other, fitted)
    assert [one.name for one in other.iterdir()] == ["photo.jpg"]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bundle", "precious"]


def test_the_manifest_is_plain_json(tmp_path, fitted):
    manifest = json.loads((write(tmp_path / "bundle", fitted) / MANIFEST).read_text())
    assert {"schema", "lanner", "created", "variants", "sha256", *_MANIFEST_KEYS} == set(manifest)


def test_a_model_of_another_version_is_refused_in_one_line(tmp_path, fitted, monkeypatch):
    monkeypatch.setattr(EASE, "state", lambda self: ({"other": np.zeros(1)}, {}))
    path = write(tmp_path / "bundle", fitted)
    with pytest.raises(BundleError, match="cannot be read by"):
        _ = read(path).recommender


def test_a_sealed_bundle_is_never_written_over_or_into(tmp_path, fitted):
    bundle = read(write(tmp_path / "bundle", fitted))
    (tmp_path / "link").symlink_to("bundle")
    before = (bundle.path / MANIFEST).read_bytes()
    ways = ("bundle", "other/../bundle", "link", "bundle/inside", ".")
    for out in ways:
        with pytest.raises(ConfigError, match="choose another folder"):
            write_compressed(tmp_path / out, bundle, [bundle.variant("full")], {})
    assert (bundle.path / MANIFEST).read_bytes() == before
