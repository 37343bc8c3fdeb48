"""The documents match the code: examples run, tables are generated, every command is named."""

import json
import re
import shlex
from pathlib import Path

import pytest

import lanner
from lanner.cli import main as cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = (
    "run",
    "train",
    "tune",
    "update",
    "evaluate",
    "recommend",
    "similar",
    "explain",
    "compare",
    "settings",
    "export recommendations",
    "export embeddings",
    "compress",
    "accelerate",
    "profile",
    "serve",
    "keys add",
    "keys revoke",
    "events export",
    "data describe",
    "data list",
    "data fetch",
    "bundles list",
    "bundles card",
    "bundles add",
    "bundles promote",
    "bundles rollback",
    "bundles remove",
    "experiment report",
    "reproduce",
    "doctor",
    "plan",
)
RUN_ELSEWHERE = ("compress", "profile", "serve", "events", "bundles", "experiment", "accelerate", "reproduce", "plan")
"""They need a trained network, a server's log or an extra: tests/test_compress.py, tests/serving,
tests/test_cli_versions.py, tests/cli/test_accelerate.py, tests/reproduction, tests/cli."""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def readme(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import readme

    return readme


def test_results_are_those_of_the_result_files(readme):
    assert readme.with_results(README, readme.results_section()) == README, "run: make docs"


def test_the_accelerators_tables_are_those_of_the_result_file(readme):
    page, results = readme.ACCELERATOR.read_text(), json.loads((readme.RESULTS / "fpga.json").read_text())["results"]
    assert readme.with_results(page, readme.accelerator_section(results)) == page, "run: make docs"
    results["routed"]["25f"]["mhz_median"] = 12.34
    assert "| 12.3 |" in readme.accelerator_section(results)


@pytest.mark.parametrize("name", ["distributed", "federated", "fine-tuning"])
def test_the_sections_of_pages_are_those_of_the_result_files(readme, name):
    page = ROOT / "docs" / f"{name}.md"
    file, section = readme.PAGES[page]
    results = json.loads((readme.RESULTS / f"{file}.json").read_text())["results"]
    assert readme.with_results(page.read_text(), section(results)) == page.read_text(), "run: make docs"


def test_every_page_with_a_generated_section_is_written(readme):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert {page for page in pages if readme.BEGIN in page.read_text()} == {readme.README, *readme.PAGES}


def test_the_table_of_federated_learning_names_what_it_compares_with(readme):
    row = {"ndcg_at_10": 0.43, "ci95": {"ndcg_at_10": [0.42, 0.44]}, "bytes_up": 4e8, "bytes_down": 5e8, "rounds": 2}
    reference = {"ndcg_at_10": 0.45, "file": "quality.json", "commit": "0123456789"}
    section = readme.PAGES[ROOT / "docs" / "federated.md"][1]
    latency = {"federated_p50_ms": 1.234, "centralised_p50_ms": 1.25, "ratio": 0.99, "requests": 2000}
    rows = {"ease": row, "processes": {"seconds": 1}, "latency": latency}
    shown = section({"rows": rows, "centralised": reference})
    assert "NDCG@10 0.4500 on the same split (`quality.json`, commit `0123456`)" in shown
    assert "| `ease` | 0.4300 (0.4200 … 0.4400) | 95.6% | 0.400 GB | 0.500 GB | 2 |" in shown
    assert "processes" not in shown
    assert "takes 1.23 ms with EASE from sums and 1.25 ms with EASE fitted on pooled events (p50 of 2,000 req" in shown
    older = section({"rows": {"ease": {key: row[key] for key in ("ndcg_at_10", "ci95")}}})
    assert "| `ease` | 0.4300 (0.4200 … 0.4400) | – | – | – | – |" in older


def test_the_page_of_fine_tuning_names_the_rows_that_are_missing(readme):
    from benchmarks._page_tables import adaptation_section

    page = adaptation_section({"a": {"full": {}, "lora-4": {}, "frozen": {}}, "b": {"frozen": {}}, "summary": {}})
    assert "a: `lora-8`, `lora-16`, `best-recipe`, `companions`; b: `full`, `lora-4`" in page
    assert "Times relative to full fine-tuning are known on a." in page


def test_the_command_reference_is_that_of_the_command_line(readme):
    assert readme.COMMANDS.read_text() == readme.command_reference(), "run: make docs"


def test_a_changed_result_file_changes_the_table(readme, tmp_path):
    figures = {"random": {"ndcg_at_10": 0.01}, "hybrid": {"ndcg_at_10": 0.4321}}
    entry = {"machine": {"cores": 2, "cpu": "x"}, "results": {"ml-1m": {"random-80-20": figures}}}
    (tmp_path / "quality_foundation.json").write_text(json.dumps(entry))
    assert "| hybrid | **0.4321** |" in readme.results_section(tmp_path)
    assert "| ease |" not in readme.results_section(tmp_path), "a model that was not measured has no row"


def test_published_figures_stand_with_their_source_and_rule_beside_both_rules_of_ours(readme, tmp_path):
    def row(value):
        return {"recall_at_10": value, "recall_at_10_repeats_missed": value / 2}

    quoted = {
        "model": "Peer",
        "source": "a table",
        "year": 2021,
        "excludes": "nothing",
        "metrics": {"recall_at_10": 0.3},
    }
    rows = {name: row(value) for name, value in (("random", 0.02), ("popularity", 0.1), ("ease", 0.2))}
    rows |= {"hybrid": row(0.4) | {"seeds": 3}, "hybrid-train-alone": row(0.38), "published": [quoted]}
    entry = {"machine": {"cores": 2, "cpu": "x"}, "results": {"yelp-p5": {"leave-last-out": rows}}}
    (tmp_path / "quality_published.json").write_text(json.dumps(entry))
    shown, place = readme.results_section(tmp_path), "last event, if its item is new; seen items not ranked"
    for metric, figures in (
        ("recall@10", "0.3000 Peer (a table, 2021) | – | 0.0200 | 0.1000 | 0.2000 ease | **0.4000** | 0.3800"),
        (
            "recall@10, repeats as misses",
            "**0.3000** Peer (a table, 2021) | – | 0.0100 | 0.0500 | 0.1000 ease | 0.2000 | 0.1900",
        ),
    ):
        assert f"| yelp-p5, {place}, mean of 3 splits | {metric} | {figures} |" in shown


def test_the_ablation_has_a_table_once_it_is_measured(readme, tmp_path):
    row = {"ndcg_at_10": 0.25, "over_hybrid": {"mean": -0.05, "ci95": [-0.06, -0.04]}}
    rows = {"gnn": row, "hybrid": {"ndcg_at_10": 0.3}}
    results = {"small": {"protocol": "random-80-20", "rows": rows}}
    entry = {"results": results, "machine": {"cores": 2, "cpu": "a processor"}}
    (tmp_path / "ablation.json").write_text(json.dumps(entry))
    shown = readme.results_section(tmp_path)
    assert "| gnn | 0.2500 (-0.0500; -0.0600 … -0.0400) |" in shown
    assert "| hybrid | 0.3000 |" in shown


def test_the_python_example_prints_what_it_says(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (example,), (output,) = blocks("python"), blocks("text")
    assert len([line for line in example.splitlines() if line]) <= 10
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out == output
    card = lanner.load("ease-bundle")._bundle.card
    assert "# ease on ml-latest-small\n" in card
    assert "no commercial use without permission. They hold for this bundle" in card


def test_the_shell_examples_run(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    events = [f"{user},{item}" for user in range(12) for item in range(9) if (user * 3 + item * 5) % 7 < 4]
    (tmp_path / "ratings.csv").write_text("\n".join(["user,item", *events]) + "\n")
    (table,), (space,) = blocks("csv"), blocks("toml")
    (tmp_path / "events.csv").write_text(table)
    (tmp_path / "space.toml").write_text(space)
    ask("run", "--model", "item-knn", "--out", "demo-bundle")  # stands for `make demo`
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lanner ")]
    assert len(lines) >= len(COMMANDS)
    for line in (one for one in lines if one.split()[1] not in RUN_ELSEWHERE):
        assert ask(*shlex.split(line, comments=True)[1:]) == 0, (line, capsys.readouterr().err)


def test_every_command_stands_in_the_readme():
    shown = {line for block in blocks("sh") for line in block.splitlines()}
    assert [one for one in COMMANDS if not any(line.startswith(f"lanner {one} ") for line in shown)] == []
    reference = (ROOT / "docs" / "commands.md").read_text()
    documented = set(re.findall(r"^#+ `lanner (.+)`$", reference, re.MULTILINE))
    assert documented == {*COMMANDS, "data", "bundles", "experiment", "keys", "events", "export"}


def test_every_make_target_of_the_docs_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", README + (ROOT / "AGENTS.md").read_text(), re.MULTILINE))
    assert {name for pair in named for name in pair if name} <= targets


def ask(*arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return stopped.value.code or 0
