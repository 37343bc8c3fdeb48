"""Commands that read a path do not create it."""

import json

from cli_calls import complaint


def test_a_store_that_is_not_there_is_not_created(ask, tmp_path):
    for store in ("typo.db", "sqlite:///typo.db"):
        answer = ask("events", "export", "events.parquet", "--store", store)
        assert "typo.db: no such file" in complaint(answer)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_versions_is_said_in_one_line(ask, tmp_path):
    code, out, _ = ask("bundles", "list", "--folder", tmp_path)
    assert (code, out) == (0, f"No versions in {tmp_path}; add one: lanner bundles add BUNDLE --folder {tmp_path}\n")
    assert json.loads(ask("bundles", "list", "--folder", tmp_path, "--json")[1]) == {"versions": [], "moves": []}


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(ask, tmp_path):
    for command in ("train", "run"):
        answer = ask(command, "--out", "/proc/x/y")
        assert "/proc/x/y: /proc is not a writable folder; give another --out" in complaint(answer)
        assert answer[2].count("\n") == 1, "no stage had begun"


def test_a_folder_of_versions_that_is_not_there(ask, tmp_path):
    assert "nofolder: no such folder; add a version" in complaint(ask("bundles", "list", "--folder", "nofolder"))
    assert list(tmp_path.iterdir()) == []
