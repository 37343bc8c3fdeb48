"""The dependency audit, with a stand-in for pip-audit: the verdict must not depend on the network."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
FLAWED = {"name": "pip", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.0"]}]}
UNKNOWN = {"name": "own", "skip_reason": "not found"}


@pytest.fixture
def audit():
    described = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module.main


def stand_in(folder, code, written="", said=""):
    program = folder / "pip-audit"
    (folder / "written").write_text(written)
    (folder / "said").write_text(said)
    program.write_text(f"#!/bin/sh\ncat {folder / 'written'}\ncat {folder / 'said'} >&2\nexit {code}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("answers", "code", "line"),
    [
        ([CLEAN, CLEAN], 0, "audit: 0 known vulnerabilities in 2 of 2 versions"),
        ([CLEAN, UNKNOWN], 0, "audit: 0 known vulnerabilities in 1 of 2 versions"),
        ([CLEAN, FLAWED], 1, "pip 1.0: CVE-1; fixed in 2.0"),
        ([UNKNOWN, UNKNOWN], 0, "audit: the advisory service knows none of 2 versions; nothing was audited"),
    ],
)
def test_the_verdict(audit, tmp_path, capsys, answers, code, line):
    written = json.dumps({"dependencies": answers, "fixes": []})
    assert audit(stand_in(tmp_path, int(FLAWED in answers), written)) == code
    assert capsys.readouterr().out.startswith(line)


@pytest.mark.parametrize(
    ("said", "code", "line"),
    [
        (
            "Traceback …\nrequests.exceptions.ConnectionError: no route",
            0,
            "audit: the advisory service cannot be reached",
        ),
        ("ERROR:pip_audit._cli:Could not connect to the feed", 0, "audit: the advisory service cannot be reached"),
        ("ERROR: invalid requirements input", 1, "audit: pip-audit cannot read constraints.txt: ERROR: invalid"),
        ("", 1, "audit: pip-audit cannot read constraints.txt: it said nothing"),
    ],
)
def test_without_an_answer(audit, tmp_path, capsys, said, code, line):
    assert audit(stand_in(tmp_path, 1, "", said)) == code
    out = capsys.readouterr().out
    assert out.startswith(line)
    assert out.count("\n") == 1
