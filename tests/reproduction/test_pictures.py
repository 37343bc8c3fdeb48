"""Pictures and tables: what damaged result files do to them, what they read, and that pages show every picture."""

import copy
import json
import re
import warnings
from pathlib import Path

import pytest

from lanner.errors import ConfigError
from lanner.reproduction.claims import judge, read_claims, read_results
from lanner.reproduction.pictures import pictures_of
from lanner.reproduction.tables import tables_of

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
ROOT = Path(__file__).parents[2]
ABSENT = object()


@pytest.fixture(scope="module")
def recorded():
    return read_results(ROOT / "benchmarks" / "results")


@pytest.fixture(scope="module")
def pictures(recorded):
    return pictures_of(recorded)


def changed(recorded, file, path, value):
    """A result file with another value at a place, or without it."""
    results = {file: copy.deepcopy(recorded[file])}
    table = results[file]["results"]
    for name in path[:-1]:
        table = table[name]
    if value is ABSENT:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    return results


def everything_of(results):
    """What ``lanner reproduce --from-results`` makes of result files."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [judge(one, results) for one in read_claims().claims]
        return found, tables_of(results), pictures_of(results)


SMALL = ("ml-latest-small", "random-80-20")
SCIENTIFIC = "amazon-scientific-2018-unisrec"
LACKING = [
    ("serving", ("overload",), {}, "Overload"),
    ("serving", ("saturation", "100000"), ABSENT, "Personal answers"),
    ("serving", ("saturation", "100000"), {}, "Personal answers"),
    ("serving", ("soak", "memory_mib"), [], "Memory"),
    ("serving", ("simulator", "many_workers", "rows"), [], "Answers in time by"),
    ("explained", ("parts",), ABSENT, "Why an item"),
    ("lora", (SCIENTIFIC,), {}, f"learns: {SCIENTIFIC}"),
    ("ablation", ("lastfm-hetrec2011", "rows"), ABSENT, "lastfm-hetrec2011"),
    ("compression", ("ml-1m", "stages"), ABSENT, "Latency by stage"),
    ("federated", ("rows", "ease"), ABSENT, "Federated EASE"),
    ("time_to_quality", ("lightgcn",), ABSENT, "Processor seconds"),
    ("quality_published", ("windows",), {}, "window"),
    ("training_simulator", ("scaling_estimated",), [], "Training throughput"),
]
DAMAGED = [
    ("compression", ("ml-1m",), "gone"),
    ("compression", ("ml-1m", "int8", "onnxruntime", "p50_ms"), "fast"),
    ("compression", ("summary", "best_latency_ratio"), "0.05"),
    ("serving", ("overload",), []),
    ("serving", ("soak", "memory_mib"), ["much"]),
    ("explained", ("parts",), [1]),
    ("explained", ("score",), "high"),
    ("lora", (SCIENTIFIC, "full", "curves"), []),
    ("ablation", ("lastfm-hetrec2011",), None),
    ("federated", ("rows", "ease-epsilon-1", "ci95", "ndcg_at_10"), [0.1]),
    ("fpga", ("paper",), []),
    ("time_to_quality", ("lanner", "low-pass", "seconds"), "slow"),
    ("quality_foundation", (*SMALL, "hybrid", "ndcg_at_10"), "good"),
    ("quality_foundation", (*SMALL, "hybrid", "ci95", "ndcg_at_10"), 3),
    ("quality_published", ("windows", "ml-latest-small"), 7),
]


@pytest.mark.parametrize(("file", "path", "value", "missing"), LACKING)
def test_what_lacks_its_rows_is_skipped_and_nothing_else_is(recorded, pictures, file, path, value, missing):
    _, _, left = everything_of(changed(recorded, file, path, value))
    gone = {one.caption for one in pictures if one.source == file} - {one.caption for one in left}
    assert [caption for caption in gone if missing not in caption] == []
    assert len(gone) == 1


@pytest.mark.parametrize(("file", "path", "value"), DAMAGED)
def test_a_damaged_file_is_named(recorded, file, path, value):
    with pytest.raises(ConfigError, match=rf"^{file}\.json: .*; measure again, or remove the file$"):
        everything_of(changed(recorded, file, path, value))


@pytest.mark.parametrize("file", ["compression", "explained", "federated", "lora", "quality_published", "serving"])
def test_an_empty_file_is_like_none(file):
    found, tables, pictures = everything_of({file: {"results": {}, "commit": "abc", "date": "2026-11-30"}})
    assert {one.verdict for one in found} == {"not measured"}
    assert tables == pictures == []


def test_a_fusion_row_that_is_missing_leaves_the_others(recorded):
    results = changed(recorded, "quality_foundation", (*SMALL, "fusion-gated"), ABSENT)
    (fusions,) = [one for one in tables_of(results) if "joining" in one.question]
    models = [row[1].split(" ")[0] for row in fusions.rows if row[0] == "/".join(SMALL)]
    assert "fusion-gated" not in models
    assert {"gnn", "fusion-concat", "fusion-cross-attention", "hybrid"} <= set(models)


def test_heads_with_equal_rows_are_marked_as_fallen_back(recorded):
    row = dict(recorded["quality_foundation"]["results"][SMALL[0]][SMALL[1]]["fusion-concat"])
    results = changed(recorded, "quality_foundation", (*SMALL, "fusion-gated"), row)
    results = changed(results, "quality_foundation", (*SMALL, "fusion-cross-attention"), row | {"ndcg_at_10": 0.4})
    (fusions,) = [one for one in tables_of(results) if "joining" in one.question]
    models = [row[1] for row in fusions.rows]
    assert {"fusion-concat (fell back)", "fusion-gated (fell back)", "fusion-cross-attention", "gnn"} <= set(models)


def test_the_trained_head_stands_beside_what_is_served_on_validation(recorded):
    path = (*SMALL, "fusion-gated", "validation_ndcg_at_10_of_head")
    (fusions,) = [
        one for one in tables_of(changed(recorded, "quality_foundation", path, 0.1234)) if "joining" in one.question
    ]
    shown = {row[1].split(" ")[0]: row[-1] for row in fusions.rows if row[0] == "/".join(SMALL)}
    served = recorded["quality_foundation"]["results"][SMALL[0]][SMALL[1]]["fusion-gated"]["validation_ndcg_at_10"]
    assert shown["fusion-gated"] == f"{served:.4f}, 0.1234"
    assert shown["gnn"] == "–"


def test_training_while_ranks_are_killed_is_a_timeline():
    timeline = {"steps": [[0, 1, 8], [5, 2, 8], [9, 2, 4], [12, 3, 4]], "lost_at_s": [6.5]}
    runs = {"killed": {"timeline": timeline | {"lost_at_s": [6.5, 9.5]}}, "elastic": {"timeline": timeline}}
    entry = {"results": runs, "commit": "abc", "date": "2026-11-30"}
    (picture,) = everything_of({"training_faults": entry})[2]
    assert "finished step" in picture.caption
    assert {"8 ranks", "4 ranks", "ranks lost"} <= set(re.findall(r">([^<>]+)</text>", picture.svg))
    assert json.loads(picture.data)["half of the ranks lost for a while"] == timeline
    del runs["elastic"]["timeline"]
    assert everything_of({"training_faults": entry})[2] == []


def test_windows_are_listed_one_by_one_with_the_interval_of_all(recorded):
    (shift,) = [one for one in tables_of(recorded) if "decay" in one.question]
    windows = recorded["quality_published"]["results"]["windows"]["ml-latest-small"]["1"]
    mine = [row for row in shift.rows if row[0] == "ml-latest-small, seed 1"]
    assert [row[1] for row in mine] == [*map(str, range(1, len(windows["windows"]) + 1)), "all"]
    assert f"{windows['halfway']['ci95'][0]:+.4f}" in mine[-1][7]
    assert f"{windows['halfway']['kept']:.1%}" == mine[-1][6]


def test_federated_rows_are_shares_of_the_centralised_hybrid(recorded):
    (federated,) = [one for one in tables_of(recorded) if "federated" in one.question]
    shares, results = {row[0]: row[-1] for row in federated.rows}, recorded["federated"]["results"]
    assert shares["hybrid"] == f"{results['summary']['hybrid_of_centralised']:.1%}"
    assert "processes" not in shares


def test_rows_of_adaptation_that_are_missing_are_named(recorded):
    results = changed(recorded, "lora", (SCIENTIFIC, "lora-8"), ABSENT)
    (adapted,) = [one for one in tables_of(results) if "adapting" in one.question]
    rows = {tuple(row[:2]): row[2:] for row in adapted.rows[1:]}
    assert rows[SCIENTIFIC, "lora-8"] == ["not measured", "", ""]
    full = recorded["lora"]["results"][SCIENTIFIC]["full"]
    assert rows[SCIENTIFIC, "full"][0] == f"{full['test_ndcg_at_10']:.4f}"
    assert {name for dataset, name in rows if dataset == "ml-1m"} == {name for dataset, name in rows}


def test_components_of_two_systems_are_not_shown(recorded):
    column = {"request": 40.0, "gnn": 1.0, "rest": 2.0}
    paper = recorded["fpga"]["results"]["paper"] | {"unoptimised": column, "optimised": column | {"request": 4.0}}
    alone = changed(recorded, "fpga", ("paper",), {k: v for k, v in paper.items() if k != "processor"})
    assert not [one for one in tables_of(alone) if "request go" in one.question]
    results = changed(recorded, "fpga", ("paper",), paper | {"processor": {"threads": 2}})
    (components,) = [one for one in tables_of(results) if "request go" in one.question]
    shown = {row[0]: row[1:3] for row in components.rows[1:]}
    assert shown["request, 2 threads"] == ["40.0000", "4.0000"]
    assert set(shown) == {"graph network", "all else", "request, 2 threads", "request, the paper"}


def test_estimates_are_called_so(pictures):
    (devices,) = [one for one in pictures if one.source == "training_simulator"]
    assert "estimated" in devices.caption
    assert "estimated" in devices.svg


def test_a_picture_brings_what_was_drawn(recorded, pictures):
    (stages,) = [one for one in pictures if "by stage" in one.caption]
    drawn = json.loads(stages.data)
    assert drawn["full"] == recorded["compression"]["results"]["ml-1m"]["stages"]["full"]
    assert "popularity" not in drawn


class Asked(dict):
    """Results that remember which files were asked for."""

    def __init__(self):
        self.files = set()

    def get(self, file, default=None):
        self.files.add(file)
        return default


def test_every_file_that_is_read_is_that_of_an_experiment():
    asked = Asked()
    everything_of(asked)
    assert {"ablation", "time_to_quality", "far_trans", "training_simulator"} <= asked.files
    assert asked.files <= {one.file for one in read_claims().experiments}


def test_every_picture_of_the_documentation_is_on_a_page():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {name for page in pages for name in re.findall(r"pictures/([\w-]+\.svg)\)", page.read_text())}
    assert {path.name for path in (ROOT / "docs" / "pictures").glob("*.svg")} == shown
