"""From --adapt to an answer: the adapted language model is part of the bundle and of its compressed form."""

import json

import pytest

peft = pytest.importorskip("peft", reason="the extra 'adapt' is not installed")
from tiny_language_models import save_model  # noqa: E402

import lanner  # noqa: E402
from lanner.errors import ConfigError  # noqa: E402

QUICK = ("adaptation.epochs=1", "training.epochs=1", "training.device=cpu", "neural.encoder.device=cpu")


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    save_model("bert", tmp_path / "tiny")
    lines = [
        f"u{user},i{item},w{item % 20} w{item % 7}"
        for user in range(40)
        for item in range(30)
        if (user + item) % 3 == 0
    ]
    (tmp_path / "events.csv").write_text("\n".join(["user_id,item_id,title", *lines]))
    return tmp_path


def test_an_adapted_model_is_run_compressed_and_asked(ask, shop):
    sets = [part for one in (*QUICK, f"neural.encoder.model={shop / 'tiny'}") for part in ("--set", one)]
    call = ("run", shop / "events.csv", "--model", "language", "--adapt", "lora", "--rank", "2", "--split", "random")
    code, out, err = ask(*call, "--out", "adapted", *sets, "--json")
    assert code == 0, err
    assert json.loads(out)["recommendations"]
    manifest = json.loads((shop / "adapted" / "manifest.json").read_text())
    assert manifest["config"]["adaptation"]["rank"] == 2
    code, _, err = ask("compress", "adapted", "--seconds", "1", "--out", "small")
    assert code == 0, err
    code, out, err = ask("recommend", "small", "--text", "w3", "-k", "3", "--json")
    assert code == 0, err
    assert len(json.loads(out)["items"]) == 3


def test_the_library_adapts_by_a_keyword(shop):
    data = lanner.load_dataset(shop / "events.csv")
    model = lanner.Language(
        adapt=lanner.LoRA(rank=2, epochs=1), encoder_model=str(shop / "tiny"), epochs=1, device="cpu"
    ).fit(data)
    assert len(model.recommend(users=["u0"], k=3).rows()) == 3
    with pytest.raises(ConfigError, match="adapt"):
        lanner.Language(adapt="lora")


def test_a_rank_that_is_none_is_refused(ask, shop):
    code, _, err = ask("run", shop / "events.csv", "--adapt", "lora", "--rank", "0")
    assert code == 2
    assert "--rank" in err
