"""What ``lanner serve`` prints before it serves."""

import json
import shlex
from pathlib import Path

import pytest

pytest.importorskip("msgspec", reason="the extra 'serving' is not installed")

import lanner
from lanner.cli.serving import _show_address
from lanner.serving.bootstrap import ServerConfig
from lanner.serving.http.keys import KeyFile


def test_the_request_to_try_is_of_items_that_the_bundle_has(bundle, capsys):
    _show_address(ServerConfig(str(bundle)))
    words = shlex.split(capsys.readouterr().out.splitlines()[1].removeprefix("Try: "))
    assert words[:2] == ["curl", "http://localhost:8080/v1/recommend"]
    items = lanner.load(bundle).dataset.items
    history = json.loads(words[-1])["history"]
    assert history
    assert all(one in items for one in history)


def test_keys_are_added_and_revoked_with_json(ask):
    added = json.loads(ask("keys", "add", "shop", "--role", "read", "--json")[1])
    assert (added["name"], added["role"], added["file"]) == ("shop", "read", "keys.toml")
    assert KeyFile(Path("keys.toml")).holder(f"Bearer {added['key']}".encode()).name == "shop"
    assert json.loads(ask("keys", "revoke", "shop", "--json")[1]) == {"revoked": "shop", "file": "keys.toml"}
    assert KeyFile(Path("keys.toml")).keys == []
