"""A ladder comes back as it was written, or not at all."""

import json

import numpy as np
import pytest

from lanner.artifacts.ladder import INDEX, Rung, read_ladder, write_ladder
from lanner.errors import BundleError, ConfigError
from lanner.models.request_form import Int8Rows, RequestForm, take


def make_form() -> RequestForm:
    draw = lambda *shape: np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return RequestForm(draw(9, 4), draw(9, 4), draw(9), (1, 3))


def written(folder):
    form = make_form()
    small = form.map_tables(lambda table: Int8Rows.of(take(table)))
    rungs = [Rung("full", form, {"network.onnx": b"n"}, {"ndcg": 0.5}), Rung("int8", small, {"encoder.onnx": b"e"})]
    return write_ladder(folder, rungs, None, {"steps": []})


def test_there_and_back(tmp_path):
    written(tmp_path)
    ladder = read_ladder(tmp_path)
    assert ladder.names == ("full", "int8")
    assert ladder.reader is None
    rung = ladder.rung("full")
    assert dict(rung.files) == {"network.onnx": b"n"}
    assert "encoder.onnx" not in rung.files
    assert rung.figures == {"ndcg": 0.5}
    assert rung.kept == ladder.path
    assert rung.form.view_sizes == (1, 3)
    assert np.array_equal(rung.form.source_ID, make_form().source_ID)
    assert isinstance(ladder.rung("int8").form.target_ID, Int8Rows)
    assert ladder.rung("int8").num_bytes == ladder.rung("int8").form.num_bytes + 1


def test_writing_again_replaces_it(tmp_path):
    written(tmp_path)
    write_ladder(tmp_path, [Rung("only", make_form())], None, {})
    assert read_ladder(tmp_path).names == ("only",)


def test_a_variant_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no variant 'tiny' in .*; it has full, int8"):
        written(tmp_path).rung("tiny")


@pytest.mark.parametrize("name", ["full.network.onnx", "full.form.safetensors", INDEX])
def test_one_flipped_byte_is_found(tmp_path, name):
    file = written(tmp_path).path / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}.*damaged"):
        read_ladder(tmp_path).verify()
    with pytest.raises(BundleError, match=f"{name}.*damaged"):
        read_ladder(tmp_path).rung("full").files["network.onnx"]


def test_no_ladder_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match="lanner compress"):
        read_ladder(tmp_path)


def test_another_schema_is_refused(tmp_path):
    from lanner.artifacts.files import digest

    folder = written(tmp_path).path
    table = json.loads((folder / INDEX).read_text()) | {"schema": 99}
    (folder / INDEX).write_text(json.dumps(table))
    (folder / "ladder.sha256").write_text(digest((folder / INDEX).read_bytes()))
    with pytest.raises(BundleError, match="schema 99"):
        read_ladder(tmp_path)


@pytest.mark.parametrize("block", [2, 100])
@pytest.mark.parametrize("rows", [[0, 3, 4, 8], [5], []])
def test_some_items_of_a_rung_are_read_without_the_others(tmp_path, monkeypatch, rows, block):
    monkeypatch.setattr("lanner.artifacts.ladder._ROWS_AT_ONCE", block)
    ladder, rows = written(tmp_path), np.array(rows, np.int64)
    for name in ladder.names:
        whole, part = ladder.rung(name).form, ladder.rung(name, rows).form
        assert part.num_items == len(rows)
        assert part.view_sizes == whole.view_sizes
        for table in ("source_ID", "target_ID", "bias_I"):
            assert np.array_equal(take(getattr(part, table)), take(getattr(whole, table), rows))


def test_one_flipped_byte_is_found_where_some_items_are_read(tmp_path):
    file = written(tmp_path).path / "full.form.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"full\.form\.safetensors: damaged"):
        read_ladder(tmp_path).rung("full", np.array([0]))
