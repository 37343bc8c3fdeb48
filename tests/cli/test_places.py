"""Commands that read a path do not create it."""

from cli_calls import complaint


def test_a_store_that_is_not_there_is_not_created(ask, tmp_path):
    for store in ("typo.db", "sqlite:///typo.db"):
        answer = ask("events", "export", "events.parquet", "--store", store)
        assert "typo.db: no such file" in complaint(answer)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_versions_that_is_not_there(ask, tmp_path):
    assert "nofolder: no such folder; add a version" in complaint(ask("bundles", "list", "--folder", "nofolder"))
    assert list(tmp_path.iterdir()) == []
