"""Help, version and the list of settings."""

import json
import re
import resource
import subprocess
import sys

import pytest
import typer
from cli_calls import complaint

import lanner
from lanner.cli import options
from lanner.cli.main import app
from lanner.registry import MODELS, SPLITS
from lanner.settings import overridden


def test_help_needs_no_heavy_package_and_little_time():
    heavy = {"numpy", "torch", "polars", "numba", "transformers", "scipy", "rich"}
    program = (
        "import sys\ntry:\n from lanner.cli.main import main; main(['--help'])\n"
        f"except SystemExit:\n print({heavy} & set(sys.modules))"
    )
    seconds = []
    for _ in range(5):
        # Processor time: what else runs on the machine does not count.
        begun = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(spent.ru_utime + spent.ru_stime - begun.ru_utime - begun.ru_stime)
        assert found.stdout.splitlines()[-1] == "set()"
    assert min(seconds) < 0.3


def test_help_names_every_model_and_split(ask):
    text = re.sub(r"\s+", "", ask("run", "--help")[1])
    assert all(name in text for name in (*MODELS, *SPLITS))
    assert ", ".join(MODELS) == options.MODEL_NAMES
    assert set(SPLITS) == set(options.SPLIT_NAMES.split(", "))


@pytest.mark.parametrize(
    "command",
    [
        *(
            ["run"],
            ["train"],
            ["tune"],
            ["evaluate"],
            ["recommend"],
            ["similar"],
            ["explain"],
            ["compare"],
            ["compress"],
        ),
        *(["profile"], ["settings"], ["data", "describe"]),
    ],
)
def test_every_command_shows_examples(ask, command):
    code, out, _ = ask(*command, "-h")
    assert (code, out) == (0, ask(*command, "--help")[1])
    assert f"lanner {' '.join(command)} " in out.split("Examples:")[1]
    assert "--json" in out


def test_every_command_but_serve_takes_json():
    def commands(group, path=()):
        for name, one in group.commands.items():
            yield from commands(one, (*path, name)) if hasattr(one, "commands") else [((*path, name), one)]

    without = [
        path
        for path, one in commands(typer.main.get_command(app))
        if all("--json" not in each.opts for each in one.params)
    ]
    assert without == [("serve",)]


def test_the_example_of_a_setting_is_one_that_serve_has():
    pytest.importorskip("msgspec", reason="the extra 'serving' is not installed")
    from lanner.serving.bootstrap import ServerConfig

    help_of_set = next(one.help for one in typer.main.get_command(app).commands["serve"].params if "--set" in one.opts)
    example = re.search(r"such as (\S+);", help_of_set)[1]
    assert overridden(ServerConfig("bundle"), [example]) != ServerConfig("bundle")


def test_the_version(ask):
    assert ask("--version") == (0, f"lanner {lanner.__version__}\n", "")


def test_settings_list_type_default_and_meaning_of_what_matters_to_a_model(ask):
    every = {one["name"]: one for one in json.loads(ask("settings", "--json")[1])}
    assert all(one["meaning"] for one in every.values()), [name for name in every if not every[name]["meaning"]]
    assert every["split.test"] == {
        "name": "split.test",
        "type": "float",
        "default": 0.2,
        "meaning": every["split.test"]["meaning"],
    }
    assert every["feedback.behaviour_weights"]["type"] == "a table of float"
    assert every["neural.encoder.device"]["default"] == "auto"
    of_ease = {one["name"] for one in json.loads(ask("settings", "ease", "--json")[1])}
    assert "ease.regularisation" in of_ease <= set(every)
    assert not any(name.startswith(("neural.", "ials.")) for name in of_ease)
    of_lightgcn = {one["name"] for one in json.loads(ask("settings", "lightgcn", "--json")[1])}
    assert "training.epochs" in of_lightgcn
    assert not {"neural.layers", "neural.views", "training.objective"} & of_lightgcn, "its name stands for them"
    of_gnn = {one["name"] for one in json.loads(ask("settings", "gnn", "--json")[1])}
    assert {"neural.dimensions", "split.test"} <= of_gnn
    assert not any(name.startswith(("neural.filter", "neural.encoder.", "neural.word", "ease.")) for name in of_gnn)
    assert {"neural.encoder.device", "neural.filter_rank"} <= {
        one["name"] for one in json.loads(ask("settings", "hybrid", "--json")[1])
    }
    assert "regularisation" in ask("settings", "ease")[1]
    assert "unknown model 'eas'" in complaint(ask("settings", "eas"))


@pytest.mark.parametrize(
    "command",
    [
        ("bundles", "list", "--folder", "."),
        ("keys", "add", "shop", "--role", "read"),
        ("keys", "revoke", "shop"),
        ("events", "export", "out.parquet", "--store", "events.db"),
        ("experiment", "report", "new", "--store", "events.db"),
    ],
)
def test_without_the_packages_of_the_server_its_commands_name_the_extra(ask, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "msgspec", None)
    assert "needs the package 'msgspec'; install it with: pip install 'lanner[serving]'" in complaint(ask(*command))
