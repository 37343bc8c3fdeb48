"""The API page names everything public, and its examples run."""

import re
import warnings
from pathlib import Path

import lanner

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text()


def test_every_example_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (setup,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    examples = re.findall(r"\| `([^`|]+)` \|$", PAGE, re.M)
    assert len(examples) > 20
    names: dict[str, object] = {}
    exec(compile(setup, "docs/api.md", "exec"), names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for example in examples:
            exec(compile(example, "docs/api.md", "exec"), names)
    assert names["exported"].users == 30


def test_every_public_name_stands_on_the_page():
    public = {name for name in lanner.__all__ if not name.endswith("Error") and name not in ("Interrupted", "Model")}
    named = set(re.findall(r"^\| `(\w+)(?:\.\w+)?` \|", PAGE, re.M))
    assert public <= named
