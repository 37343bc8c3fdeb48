"""What ``lanner serve`` prints before it serves."""

import json
import shlex
from pathlib import Path

import pytest
from cli_calls import complaint

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


def test_compress_shows_the_latency_it_chose_by_and_why_popularity_is_not_chosen(ask, bundle):
    code, out, err = ask("compress", bundle, "--out", "small", "--threads", 1, "--max-ndcg-loss", "0.9")
    assert code == 0, err
    assert "p50 ms" in out
    (row,) = [line.strip("│").split("│") for line in out.splitlines() if "│ popularity" in line]
    assert float(row[-1]) > 0
    assert "within the accepted loss: full (popularity is not personal, so never chosen). Wrote small." in out


def test_a_loss_of_everything_is_refused(ask, bundle):
    said = complaint(ask("compress", bundle, "--max-ndcg-loss", "1"))
    assert "max_ndcg_loss is 1.0, it must be at least 0 and less than 1" in said
