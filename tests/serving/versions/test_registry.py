"""Versions are immutable, aliases move atomically, and corrupt bundles are rejected."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stand_ins import write_served_bundle

from lanner.artifacts.bundle import read_bundle
from lanner.artifacts.dataset_files import FILES
from lanner.errors import BundleError, ConfigError, StorageError
from lanner.serving.versions import registry as registry_module
from lanner.serving.versions.registry import ALIASES, MOST_MOVES, Registry, check_bundle


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [write_served_bundle(folder / f"b{seed}", seed) for seed in range(3)]


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def versions(registry, bundles) -> list[str]:
    return [registry.add(bundle) for bundle in bundles]


def test_a_version_is_that_of_the_bundle(registry, bundles):
    version = registry.add(bundles[0])
    assert read_bundle(registry.path(version)).version == version
    (found,) = registry.versions()
    assert (found.version, found.model, found.aliases) == (version, "drawn", ())


def test_files_are_shared_where_the_disk_allows_it_and_copied_where_not(registry, bundles, monkeypatch):
    linked = registry.path(registry.add(bundles[0]))
    assert (linked / "golden.json").samefile(bundles[0] / "golden.json")

    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    copied = registry.path(registry.add(bundles[1]))
    assert not (copied / "golden.json").samefile(bundles[1] / "golden.json")
    assert check_bundle(copied) == copied.name


def test_adding_again_changes_nothing(registry, bundles):
    assert registry.add(bundles[0]) == registry.add(bundles[0])
    assert registry.add(registry.path(registry.add(bundles[0]))) == registry.versions()[0].version
    assert len(registry.versions()) == 1


@pytest.mark.parametrize("name", [*FILES, "manifest.json", "golden.json", "full.scoring.safetensors"])
@pytest.mark.parametrize("harm", ["flipped", "missing"])
def test_a_damaged_bundle_is_refused_and_the_old_one_stays(registry, bundles, tmp_path, name, harm):
    champion = registry.add(bundles[0])
    registry.set_alias("champion", champion)
    damaged = shutil.copytree(bundles[1], tmp_path / "damaged")
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / name).unlink()
    if harm == "flipped":
        (damaged / name).write_bytes(content)
    with pytest.raises(BundleError, match=Path(name).name.replace(".", r"\.")) as raised:
        registry.add(damaged)
    assert "\n" not in str(raised.value)
    assert registry.aliases() == {"champion": champion}
    assert [one.version for one in registry.versions()] == [champion]
    assert left_over(registry) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda manifest: manifest.pop("variants"),
        lambda manifest: manifest["variants"].update(full=3),
        lambda manifest: manifest["sha256"].pop("golden.json"),
        lambda manifest: manifest.update(texts=None),
        lambda manifest: manifest["dataset"].clear(),
    ],
)
def test_a_bundle_that_is_malformed_and_rightly_checksummed_is_one_line(registry, bundles, tmp_path, harm):
    odd = shutil.copytree(bundles[0], tmp_path / "odd")
    manifest = json.loads((odd / "manifest.json").read_bytes())
    harm(manifest)
    written = json.dumps(manifest).encode()
    (odd / "manifest.json").write_bytes(written)
    (odd / "manifest.sha256").write_text(hashlib.sha256(written).hexdigest())
    with pytest.raises(BundleError, match=r"malformed|damaged|write the bundle again") as raised:
        registry.add(odd)
    assert "\n" not in str(raised.value)
    assert registry.versions() == []


def test_an_answer_of_any_variant_that_differs_is_refused(registry, bundles, tmp_path):
    odd = shutil.copytree(bundles[0], tmp_path / "odd")
    manifest, golden = (json.loads((odd / name).read_bytes()) for name in ("manifest.json", "golden.json"))
    golden["requests"][0]["answers"]["popularity"]["items"].reverse()
    content = json.dumps(golden).encode()
    (odd / "golden.json").write_bytes(content)
    manifest["sha256"]["golden.json"] = hashlib.sha256(content).hexdigest()
    written = json.dumps(manifest).encode()
    (odd / "manifest.json").write_bytes(written)
    (odd / "manifest.sha256").write_text(hashlib.sha256(written).hexdigest())
    with pytest.raises(BundleError, match="variant 'popularity' failed golden request 0"):
        registry.add(odd)


def test_a_version_damaged_in_its_place_is_not_promoted(registry, versions):
    registry.set_alias("champion", versions[0])
    file = registry.path(versions[1]) / "golden.json"
    content = file.read_bytes()
    file.unlink()  # the other name of the same bytes stays whole
    file.write_bytes(content[:-1] + b" ")
    with pytest.raises(BundleError, match=r"golden\.json: damaged"):
        registry.set_alias("champion", versions[1])
    assert registry.aliases() == {"champion": versions[0]}


def test_aliases_move_and_roll_back_step_by_step(registry, versions):
    first, second, third = versions
    for version in versions:
        registry.set_alias("champion", version)
    registry.set_alias("challenger", first)
    assert registry.rollback("champion") == second
    assert registry.rollback("champion") == first
    with pytest.raises(ConfigError, match="champion has no previous version"):
        registry.rollback("champion")
    registry.set_alias("champion", third)
    assert registry.rollback("champion") == first
    assert registry.aliases() == {"champion": first, "challenger": first}
    moves = [(move.before, move.version) for move in registry.moves() if move.alias == "champion"]
    assert moves == [
        *((None, first), (first, second), (second, third), (third, second), (second, first)),
        *((first, third), (third, first)),
    ]
    times = [move.time for move in registry.moves()]
    assert times == sorted(times)
    shown = {one.version: one.aliases for one in registry.versions()}
    assert shown == {first: ALIASES, second: (), third: ()}


def test_moves_are_bounded_and_going_back_stays_right(registry, versions, monkeypatch):
    monkeypatch.setattr(registry_module, "MOST_MOVES", 3)
    for version in (versions[0], versions[1], versions[2], versions[0]):
        registry.set_alias("champion", version)
    assert len(registry.moves()) == 3
    assert [registry.rollback("champion"), registry.rollback("champion")] == [versions[2], versions[1]]
    with pytest.raises(ConfigError, match="no previous version"):
        registry.rollback("champion")
    assert MOST_MOVES >= 100


def test_setting_an_alias_to_where_it_is_is_no_move(registry, versions):
    registry.set_alias("champion", versions[0])
    registry.set_alias("champion", versions[0])
    assert len(registry.moves()) == 1


def test_what_is_served_is_not_removed(registry, versions):
    registry.set_alias("champion", versions[0])
    registry.set_alias("challenger", versions[0])
    with pytest.raises(ConfigError, match="champion and challenger is version"):
        registry.remove(versions[0])
    registry.set_alias("champion", versions[1])
    registry.set_alias("challenger", versions[1])
    registry.remove(versions[0])
    assert {one.version for one in registry.versions()} == set(versions[1:])
    with pytest.raises(ConfigError, match="no version"):
        registry.rollback("champion")
    assert left_over(registry) == []


@pytest.mark.parametrize("version", ["", "nothing", "../registry", "0" * 12, "champion"])
def test_an_unknown_version_or_alias_is_named(registry, versions, version):
    for act in (registry.path, registry.remove, lambda one: registry.set_alias("champion", one)):
        with pytest.raises(ConfigError, match=f"no version '{version}' in .*; it has {min(versions)}"):
            act(version)
    for act in (registry.rollback, lambda alias: registry.set_alias(alias, versions[0])):
        with pytest.raises(ConfigError, match="no alias 'best'; choose one of champion, challenger"):
            act("best")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "damaged"),
        (b'{"schema": 1, "aliases": {"champion": 3}, "moves": []}', "damaged"),
        (b'{"schema": 9, "aliases": {}, "moves": []}', "schema 9"),
        (b'{"schema": 1, "aliases": {"champion": "../../etc"}, "moves": []}', "is missing"),
        (b'{"schema": 1, "aliases": {"champion": "0123456789ab"}, "moves": []}', "is missing"),
    ],
)
def test_a_damaged_file_of_aliases_is_one_line(registry, versions, content, said):
    (registry.folder / "aliases.json").write_bytes(content)
    with pytest.raises(BundleError, match=said) as raised:
        registry.aliases()
    assert "\n" not in str(raised.value)
    with pytest.raises(BundleError):
        registry.set_alias("champion", versions[0])
    assert (registry.folder / "aliases.json").read_bytes() == content


def test_an_empty_folder_has_nothing(registry):
    assert (registry.versions(), registry.aliases(), registry.moves()) == ([], {}, [])
    with pytest.raises(ConfigError, match="it has none"):
        registry.path("0" * 12)


def test_a_disk_that_refuses_changes_nothing(registry, versions, monkeypatch):
    registry.set_alias("champion", versions[0])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        registry.set_alias("champion", versions[1])
    assert registry.aliases() == {"champion": versions[0]}
    assert left_over(registry) == []


def test_writers_at_once_lose_no_move(registry, versions):
    def act(number):
        Registry(registry.folder).set_alias("champion", versions[number % 3])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(act, range(30)))
    moves = registry.moves()
    assert len(moves) > 1
    assert [move.before for move in moves] == [None, *(move.version for move in moves[:-1])]
    assert registry.aliases() == {"champion": moves[-1].version}


KILLED = """
import os, pathlib, signal, sys
from lanner.serving.versions.registry import Registry
folder, act, given, place, name, wanted = sys.argv[1:]
owner = {"os": os, "Path": pathlib.Path}[place]
original, calls = getattr(owner, name), []
def deadly(*arguments, **named):
    calls.append(1)
    if len(calls) == int(wanted):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)
setattr(owner, name, deadly)
registry = Registry(pathlib.Path(folder))
registry.set_alias("champion", given) if act == "promote" else registry.add(pathlib.Path(given))
"""


def test_a_kill_in_the_middle_leaves_the_old_state(tmp_path, bundles):
    cases = [
        *(("promote", "os", "fsync", 1), ("promote", "Path", "replace", 1)),
        *(("add", "Path", "hardlink_to", 1), ("add", "Path", "hardlink_to", 7), ("add", "Path", "rename", 1)),
    ]
    running = []
    for number, (act, *place) in enumerate(cases):
        registry = Registry(tmp_path / str(number))
        old, new = registry.add(bundles[0]), registry.add(bundles[1])
        registry.set_alias("champion", old)
        given = new if act == "promote" else str(bundles[2])
        command = [sys.executable, "-c", KILLED, str(registry.folder), act, given, *map(str, place)]
        running.append((registry, old, new, subprocess.Popen(command)))
    for registry, old, new, process in running:
        assert process.wait(60) == -signal.SIGKILL
        assert left_over(registry), "it died too early or too late"
        assert registry.aliases() == {"champion": old}
        assert {one.version for one in registry.versions()} == {old, new}
        registry.set_alias("champion", new)
        assert registry.add(bundles[2]) in {one.version for one in registry.versions()}
        assert left_over(registry) == []
        assert json.loads((registry.folder / "aliases.json").read_bytes())["aliases"] == {"champion": new}


def left_over(registry: Registry) -> list[str]:
    return [one.name for one in registry.folder.glob(".draft-*")]
