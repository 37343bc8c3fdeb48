"""``ask`` runs one command in an empty folder; ``bundle`` is item-knn on the bundled dataset."""

import pytest

from lanner.cli import main as cli


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    """Gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(one) for one in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "knn"
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--model", "item-knn", "--out", str(path)])
    assert not stopped.value.code
    return path
