"""The commands ``lanner bundles`` and ``lanner experiment`` end to end."""

import json
from dataclasses import replace

import pytest
from stand_ins import write_served_bundle

from lanner.artifacts.bundle import CHECKSUM, MANIFEST, read_bundle, write_compressed
from lanner.cli import main as cli
from lanner.files import digest
from lanner.serving.messages import Event
from lanner.serving.store import Exposure, open_store


@pytest.fixture
def ask(capsys):
    def asked(*arguments):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(one) for one in arguments])
        said = capsys.readouterr()
        return stopped.value.code or 0, said.out, said.err

    return asked


def test_the_life_of_two_versions(ask, tmp_path):
    folder = ("--folder", tmp_path / "bundles")
    versions = []
    for seed in range(2):
        code, out, _ = ask("bundles", "add", write_served_bundle(tmp_path / str(seed), seed), *folder, "--json")
        assert code == 0
        versions.append(json.loads(out)["version"])
    for version in versions:
        assert ask("bundles", "promote", version, *folder)[0] == 0
    assert ask("bundles", "promote", versions[1], "--alias", "challenger", *folder)[0] == 0
    code, out, _ = ask("bundles", "rollback", *folder)
    assert (code, out) == (0, f"champion is version {versions[0]} again\n")
    found = json.loads(ask("bundles", "list", *folder, "--json")[1])
    assert {one["version"]: one["aliases"] for one in found["versions"]} == {
        versions[0]: ["champion"],
        versions[1]: ["challenger"],
    }
    assert [move["version"] for move in found["moves"]] == [*versions, versions[1], versions[0]]
    shown = ask("bundles", "list", *folder)[1]
    assert all(one in shown for one in (*versions, "champion", "challenger", "drawn"))
    code, _, err = ask("bundles", "remove", versions[1], *folder)
    assert (code, err.count("\n")) == (2, 1)
    assert "challenger is version" in err
    ask("bundles", "promote", versions[0], "--alias", "challenger", *folder)
    assert ask("bundles", "remove", versions[1], *folder) == (0, f"Removed version {versions[1]}\n", "")


def rewrite(bundle, name, content):
    """Replace a file as its author could have written it: with checksums that agree."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / MANIFEST).read_bytes()) if name != MANIFEST else {}
    if name != MANIFEST:
        manifest["sha256"][name] = digest(content)
        content = json.dumps(manifest).encode()
        (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_text(digest(content))


def test_golden_requests_are_asked_of_every_variant(ask, tmp_path):
    bundle, other = (write_served_bundle(tmp_path / name, seed) for name, seed in (("bundle", 0), ("other", 1)))
    opened = read_bundle(bundle)
    worse = replace(read_bundle(other).variant("full"), name="int8")
    made = write_compressed(tmp_path / "made", opened, [opened.variant("full"), opened.variant("popularity")], {})
    right = json.loads((made / "golden.json").read_bytes())
    made = write_compressed(made, opened, [opened.variant("full"), worse, opened.variant("popularity")], {})
    for request in right["requests"]:
        request["answers"]["int8"] = request["answers"]["full"]
    rewrite(made, "golden.json", json.dumps(right).encode())
    code, out, err = ask("bundles", "add", made, "--folder", tmp_path / "bundles")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "variant 'int8' failed golden request 0" in err
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize("name", [MANIFEST, "golden.json", "full.scoring.safetensors", "events.parquet"])
@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff\x00nothing", b'{"variants": 3, "schema": 2, "sha256": 5}']
)
def test_any_malformed_bundle_is_one_line(ask, tmp_path, name, content):
    bundle = write_served_bundle(tmp_path / "bundle")
    assert (bundle / name).is_file()
    rewrite(bundle, name, content)
    code, out, err = ask("bundles", "add", bundle, "--folder", tmp_path / "bundles")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "lanner: " in err
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bundles", "add", "nowhere"), "not a bundle"),
        (("bundles", "promote", "0" * 12), "no version '000000000000'"),
        (("bundles", "promote", "0" * 12, "--alias", "best"), "no alias 'best'"),
        (("bundles", "rollback"), "champion has no previous version"),
        (("bundles", "remove", ".."), "no version '..'"),
        (("experiment", "report", "x", "--store", "events.db"), "no exposures of an experiment 'x'"),
        (("experiment", "report", "x", "--store", "events.db", "--share", "half"), "--share 'half' is not ARM=SHARE"),
        (("experiment", "report", "x", "--store", "events.db", "--share", "a=1"), "has 1 arm(s)"),
        (("experiment", "report", "x", "--store", "typo.db"), "--store typo.db: no such file"),
        (("experiment", "report", "x", "--store", "redis://x"), "unknown store 'redis://'"),
    ],
)
def test_bad_input_is_one_line(ask, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    open_store("events.db").close()
    code, out, err = ask(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_an_experiment_is_reported(ask, tmp_path):
    path = tmp_path / "events.db"
    store = open_store(str(path))
    for number in range(40):
        arm = "challenger" if number % 4 == 0 else "champion"
        store.expose([Exposure("ladder", arm, f"u{number}", 1000.0, ["a", "b"])])
        if number % 3:
            store.append([Event(user_id=f"u{number}", item_id="a", timestamp=1000.0 + 60 * number)], 1e9)
    store.close()
    command = ("experiment", "report", "ladder", "--store", path)
    found = json.loads(ask(*command, "--json")[1])
    assert [(arm["arm"], arm["users"], arm["exposures"]) for arm in found["arms"]] == [
        ("champion", 30, 60),
        ("challenger", 10, 20),
    ]
    assert sum(arm["conversions"] for arm in found["arms"]) == 26
    assert found["sample_ratio_p"] is None
    shorter = json.loads(ask(*command, "--horizon-hours", "0.1", "--json")[1])
    assert sum(arm["conversions"] for arm in shorter["arms"]) == 4
    shares = ("--share", "champion=0.5", "--share", "challenger=0.5")
    assert json.loads(ask(*command, *shares, "--json")[1])["sample_ratio_p"] == pytest.approx(0.00157, rel=0.01)
    shown = ask(*command, *shares)[1]
    assert all(one in shown for one in ("challenger − champion", "conversions per user", "p = 0.0016, as configured"))
