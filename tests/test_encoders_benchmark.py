"""``benchmarks._encoders``: which encoders are measured, and on which datasets."""

from benchmarks import _encoders
from benchmarks._quality_settings import STUDIES


def test_folders_with_weights_are_encoders(tmp_path, monkeypatch):
    for name, file in (("all-mpnet-base-v2", "model.safetensors"), ("notes", "README.md")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"")
    monkeypatch.setenv(_encoders.FOLDER_VARIABLE, str(tmp_path))
    assert _encoders._others() == {"all-mpnet-base-v2": str(tmp_path / "all-mpnet-base-v2")}


def test_without_the_folder_the_default_alone_is_measured(monkeypatch, capsys):
    monkeypatch.delenv(_encoders.FOLDER_VARIABLE, raising=False)
    assert _encoders._others() == {}
    assert "LANNER_ENCODERS is not set" in capsys.readouterr().out


def test_every_dataset_of_the_study_has_a_split():
    asked = {dataset for studies in STUDIES.values() for study, dataset, _ in studies if study == "encoders"}
    assert asked == set(_encoders.SPLIT_OF)
