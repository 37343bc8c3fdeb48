"""Statistics of a dataset small enough to count by hand."""

import json
from dataclasses import replace

import pytest

from lanner.data.describe import describe, fingerprint
from lanner.data.sources import load


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "a\tx\t1\t0\na\tx\t2\t86400\na\ty\t3\t5\nb\tx\t4\t6\n\tx\t4\t6\n"
    )
    (tmp_path / "shop.item").write_text("item_id:token\tname:token_seq\tkind:token\nx\tPan\tsteel\ny\t\t\n")
    (tmp_path / "shop.net").write_text("source_id:token\ttarget_id:token\na\tb\na\tz\n")
    return load(tmp_path)


def test_describe_by_hand(shop):
    told = describe(shop)
    assert told["counts"] == {
        "users": 2,
        "items": 2,
        "interactions": 4,
        "distinct_pairs": 3,
        "repeated_interactions": 1,
        "density": 0.75,
    }
    assert told["degrees"]["user"]["max"] == 3
    assert told["degrees"]["item"]["mean"] == 2
    assert told["texts"]["item"]["coverage"] == 0.5
    assert told["texts"]["user"] is None
    assert told["ties"]["count"] == 1
    assert told["ties"]["user_coverage"] == 1
    assert told["attributes"]["item"] == {"kind": {"values": 1, "links": 1, "coverage": 0.5}}
    assert told["events"]["first"] == "1970-01-01T00:00:00+00:00"
    assert told["events"]["last"] == "1970-01-02T00:00:00+00:00"
    assert told["events"]["behaviours"] == {"interaction": 4}
    assert told["rejected"] == {"missing user id": 1, "tie to an unknown user": 1}
    assert json.loads(json.dumps(told)) == told


def test_describe_nothing(tmp_path):
    (tmp_path / "e.csv").write_text("user,item,timestamp\n")
    told = describe(load(tmp_path / "e.csv"))
    assert told["counts"]["density"] == 0
    assert told["degrees"]["user"] is None
    assert told["events"]["first"] is None


def test_fingerprint_tells_contents_apart(shop, tmp_path):
    again = load(tmp_path)
    assert fingerprint(again) == fingerprint(shop)
    other_events = shop.with_interactions(shop.interactions.take(shop.interactions.item >= 0))
    assert fingerprint(other_events) == fingerprint(shop)
    catalogue = shop.item_catalogue
    changes = [
        shop.with_interactions(shop.interactions.take(shop.interactions.item == 0)),
        replace(shop, ties=None),
        replace(shop, item_catalogue=replace(catalogue, texts=("Pan.P", "an"))),
        replace(shop, item_catalogue=replace(catalogue, texts=("Pan.", "Pan"))),
        replace(shop, item_catalogue=replace(catalogue, attributes={})),
        shop.with_interactions(replace(shop.interactions, weight=None)),
    ]
    assert len({fingerprint(one) for one in [shop, *changes]}) == len(changes) + 1
