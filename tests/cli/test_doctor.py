"""Findings of lanner doctor: incomplete extras, ports in use."""

import json
import socket

import pytest

from lanner.cli import doctor


def test_it_says_what_a_bug_report_needs(ask):
    found = json.loads(ask("doctor", "--json")[1])
    assert found["packages"]["numpy"]
    assert found["machine"]["cores"] >= 1
    assert found["extras"]["serving"]["msgspec"]
    assert found["folder"]["writable"]
    assert "GPU" in ask("doctor")[1]


def test_what_an_extra_lacks_is_named_with_the_line_that_installs_it(ask, monkeypatch):
    real = doctor.installed
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "msgspec" else real(name))
    assert doctor.packages_of("serving")["msgspec"] is None
    assert "pip install 'lanner[serving]'" in " ".join(ask("doctor")[1].split())


def test_core_packages_are_not_those_of_extras():
    assert "numpy" in doctor.packages_of("")
    assert "torch" not in doctor.packages_of("")
    assert set(doctor.packages_of("train")) == {"torch"}


def test_a_port_in_use_is_not_free():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        assert not doctor.is_free(one.getsockname()[1])


@pytest.mark.parametrize("folder", ["nowhere/yet", "."])
def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path, folder):
    found = doctor.disk_of(tmp_path / folder)
    assert found["writable"]
    assert found["free_gib"] >= 0


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_a_file_is_no_folder_to_write_to(tmp_path, folder):
    (tmp_path / "file").write_text("")
    assert not doctor.disk_of(tmp_path / folder)["writable"]
