"""From --adapt to recommendations: the adapted language model is part of the bundle and its compressed form."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from safetensors import safe_open

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")
peft = pytest.importorskip("peft", reason="the extra 'adapt' is not installed")
from tiny_language_models import save_model  # noqa: E402

import lanner  # noqa: E402
from lanner.errors import ConfigError  # noqa: E402

QUICK = ("adaptation.epochs=1", "training.epochs=1", "training.device=cpu", "neural.encoder.device=cpu")


@pytest.fixture
def shop(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LANNER_CACHE", str(tmp_path / "cache"))
    save_model("bert", tmp_path / "tiny")
    capsys.readouterr()  # its progress bar is not what a command says
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


def on_ranks(shop, *arguments, start=("-m", "lanner", "train", "--nproc", "2")):
    """The command of one adaptation in processes of its own."""
    sets = (
        *QUICK,
        f"neural.encoder.model={shop / 'tiny'}",
        "adaptation.tokens_per_step=60",
        "adaptation.dtype=float32",
    )
    call = ["events.csv", "--model", "language", "--adapt", "lora", "--rank", "2"]
    call += [*(part for one in sets for part in ("--set", one)), *arguments]
    return subprocess.Popen(
        [sys.executable, *start, *call], cwd=shop, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def progress_of(checkpoint):
    with safe_open(checkpoint, "np") as file:
        return json.loads(file.metadata()["progress"])


def weights_in(bundle):
    with safe_open(bundle / "model.safetensors", "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_ranks_of_either_launcher_write_the_bundle_of_one_process(shop):
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "lanner.train")
    alone = ("-m", "lanner", "train")
    for name, start in (("alone", alone), ("nproc", None), ("torchrun", torchrun)):
        process = on_ranks(shop, "--out", name, **({} if start is None else {"start": start}))
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.count("Wrote the bundle") == 1
        assert err.count("load events.csv") == 1, "the first rank alone tells"
    expected = weights_in(shop / "alone")
    adapted = [name for name in expected if name.startswith("encoder.")]
    assert adapted
    for name in ("nproc", "torchrun"):
        found = weights_in(shop / name)
        assert found.keys() == expected.keys()
        # What follows the language model is by decompositions of its vectors, whose signs hang on last digits.
        for key in adapted:
            np.testing.assert_allclose(found[key], expected[key], atol=1e-3, err_msg=key)


def test_replicas_that_learn_alone_write_a_bundle(shop):
    apart = ("--set", "parallel.local_steps=3", "--set", "parallel.compression=int8")
    process = on_ranks(shop, *apart, "--out", "apart")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("Wrote the bundle") == 1
    process = on_ranks(shop, *apart, "--parallel", "tp=2", "--out", "none")
    out, err = process.communicate()
    assert process.returncode == 2
    assert "parallel.local_steps=3 needs replicas" in err
    assert "Traceback" not in err
    assert not (shop / "none").exists()


def test_settings_of_several_ranks_are_refused_in_one_line(ask, shop):
    code, _, err = ask("train", shop / "events.csv", "--model", "ease", "--set", "parallel.local_steps=3")
    assert code == 2
    assert "parallel.local_steps=3 needs replicas" in err
    code, _, err = ask("train", shop / "events.csv", "--adapt", "lora", "--parallel", "pp=2")
    assert code == 2
    assert "schedule 1f1b needs at least as many micro-batches as stages, 2, received 1" in err
    for setting, said in (
        ("shares=[2, 1]", "parallel.shares=[2, 1]: give one number for each replica"),
        ("ranks_per_rack=2", "parallel.ranks_per_rack=2 does not divide the 3 replicas"),
        ("balancing=true", "layers can be moved with pp above 1"),
    ):
        code, _, err = ask(
            "train", shop / "events.csv", "--adapt", "lora", "--nproc", "3", "--set", f"parallel.{setting}"
        )
        assert (code, err.count("\n")) == (2, 1)
        assert said in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rank", "4"), "adaptation.rank=4 changes nothing in this run; add --adapt lora"),
        (("--set", "adaptation.epochs=3"), "adaptation.epochs=3 changes nothing in this run; add --adapt lora"),
        (("--rank", "8"), "--rank 8 changes nothing in this run; add --adapt lora"),
        (("--model", "ease", "--rank", "8"), "--rank 8 changes nothing in this run; the model 'ease' has"),
        (("--adapt", "full", "--rank", "4"), "adaptation.rank=4 changes nothing in this run; use --adapt lora"),
        (("--engine", "deepspeed"), "parallel.engine=deepspeed changes nothing in this run; add --nproc"),
        (("--adapt", "lora", "--set", "parallel.compression=int8"), "parallel.compression=int8 changes nothing"),
        (
            ("--adapt", "lora", "--model", "ease"),
            "adaptation.method=lora changes nothing in this run; the model 'ease' has",
        ),
        (("--set", "adaptation.epochs=4", "--model", "ease"), "the model 'ease' has no language model"),
        (
            ("--adapt", "lora", "--set", "adaptation.temperature=0.1"),
            "adaptation.temperature=0.1 changes nothing in this run; use --set adaptation.objective=companions",
        ),
        (
            ("--adapt", "lora", "--set", "adaptation.objective=companions", "--set", "adaptation.batch_users=9"),
            "adaptation.batch_users=9 changes nothing in this run; use --set adaptation.objective=histories",
        ),
        (
            ("--adapt", "lora", "--nproc", "2", "--set", "parallel.zero=2"),
            "parallel.zero=2 changes nothing in this run",
        ),
        (
            ("--adapt", "lora", "--parallel", "tp=2", "--set", "parallel.compression=int8"),
            "parallel.compression=int8 changes nothing in this run; add replicate to --parallel",
        ),
        (
            ("--adapt", "lora", "--parallel", "tp=2", "--set", "parallel.ranks_per_rack=1"),
            "parallel.ranks_per_rack=1 changes nothing in this run; add replicate to --parallel",
        ),
        (
            ("--adapt", "lora", "--nproc", "2", "--set", "parallel.fragments=4"),
            "parallel.fragments=4 changes nothing in this run; add --set parallel.local_steps=20",
        ),
        (
            ("--adapt", "lora", "--nproc", "2", "--set", "parallel.dense_steps=5"),
            "parallel.dense_steps=5 changes nothing",
        ),
        (
            ("--adapt", "lora", "--nproc", "2", "--set", "parallel.schedule=zbv"),
            "parallel.schedule=zbv changes nothing",
        ),
    ],
)
def test_settings_that_would_change_nothing_are_refused(ask, shop, arguments, said):
    for command in ("run", "train"):
        code, _, err = ask(command, shop / "events.csv", *arguments, "--out", "none")
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
    assert not (shop / "none").exists()


def test_a_diverged_adaptation_writes_no_bundle(ask, shop):
    sets = (
        *QUICK,
        f"neural.encoder.model={shop / 'tiny'}",
        "adaptation.tokens_per_step=60",
        "adaptation.learning_rate=1e30",
    )
    call = ("train", shop / "events.csv", "--model", "language", "--adapt", "full", "--out", "none")
    code, _, err = ask(*call, *(part for one in sets for part in ("--set", one)))
    assert code == 2
    (told,) = (line for line in err.splitlines() if line.startswith("lanner: "))
    assert "'language model' diverged in epoch 1 after 1 steps: the loss is nan for" in told
    assert "from layer language.model." in told
    assert not (shop / "none").exists()


def test_a_file_in_the_place_of_an_adapter_is_refused_before_training(ask, shop):
    (shop / "adapter").write_text("notes")
    sets = (*QUICK, f"neural.encoder.model={shop / 'tiny'}", f"adaptation.output={shop / 'adapter'}")
    call = ("train", shop / "events.csv", "--model", "language", "--adapt", "lora", "--rank", "2")
    code, _, err = ask(*call, *(part for one in sets for part in ("--set", one)))
    assert (code, err.count("\n")) == (2, 1)
    assert f"{shop / 'adapter'} is not a writable folder" in err
    assert (shop / "adapter").read_text() == "notes"


def test_ctrl_c_ends_all_ranks_and_the_same_command_goes_on(shop):
    process = on_ranks(shop, "--set", "adaptation.epochs=500", "--set", "adaptation.patience=500", "--out", "two")
    checkpoint = shop / "two.checkpoint" / "adaptation" / "training.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command resumes from" in err
    assert "nothing was kept" not in err
    assert "signal" not in err
    assert progress_of(checkpoint)["step"] > 0


def test_after_a_rank_was_killed_all_begin_again(shop):
    process = on_ranks(shop, "--set", "adaptation.epochs=40", "--set", "adaptation.patience=40", "--out", "killed")
    checkpoint = shop / "killed.checkpoint" / "adaptation" / "training.safetensors"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    second = next(one for one in children if one.is_running() and one.environ().get("RANK") == "1")
    second.kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "rank 1 of 2 ended (-9); the same command resumes from its checkpoint; restarting all ranks" in err
    assert out.count("Wrote the bundle") == 1


@pytest.mark.slow
def test_the_node_that_is_left_goes_on_alone(shop):
    """Two nodes of torchrun, of which the one with the first rank is lost while the language model is trained."""
    long = ("--set", "adaptation.epochs=40", "--set", "adaptation.patience=40")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    launcher = ("-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3")
    launcher += ("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{store.port}", "--local-addr=127.0.0.1")
    launcher += ("--rdzv-conf=is_host=0,last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=5",)
    nodes = [on_ranks(shop, *long, "--out", "left", start=(*launcher, "-m", "lanner.train")) for _ in range(2)]
    checkpoint = shop / "left.checkpoint" / "adaptation" / "training.safetensors"
    while not (checkpoint.exists() and progress_of(checkpoint)["task"] == 1) and nodes[0].poll() is None:
        time.sleep(0.1)
    trees = [[node, *psutil.Process(node.pid).children(recursive=True)] for node in nodes]
    is_first = [any(one.environ().get("RANK") == "0" for one in tree[1:]) for tree in trees]
    assert sorted(is_first) == [False, True]
    for process in trees[is_first.index(True)]:
        process.kill()
    lost, left = nodes[is_first.index(True)], nodes[is_first.index(False)]
    lost.communicate()
    out, err = left.communicate(timeout=300)
    assert left.returncode == 0, err
    assert out.count("Wrote the bundle") == 1
    process = on_ranks(shop, *long, "--out", "alone", start=("-m", "lanner", "train"))
    process.communicate()
    assert process.returncode == 0
    expected, found = weights_in(shop / "alone"), weights_in(shop / "left")
    for key in (name for name in expected if name.startswith("encoder.")):
        np.testing.assert_allclose(found[key], expected[key], atol=1e-3, err_msg=key)


def test_settings_that_a_single_rank_of_a_launcher_drops_are_named(shop, ask, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    call = ("train", shop / "events.csv", "--model", "popularity")
    dropped = "lanner: one rank: the settings of 'parallel' have no effect"
    code, _, err = ask(*call, "--set", "parallel.compression=int8", "--out", shop / "dropped")
    assert (code, err.count(dropped)) == (0, 1)
    code, _, err = ask(*call, "--out", shop / "nothing dropped")
    assert (code, err.count(dropped)) == (0, 0)


def test_what_ranks_cannot_do_is_one_line(shop, ask):
    call = ("train", shop / "events.csv", "--nproc", "4")
    code, _, err = ask(*call, "--adapt", "lora", "--parallel", "pp=2,replicate=3")
    assert (code, err.count("\n")) == (2, 1)
    assert "pp 2 × replicate 3 × shard 1 × tp 1 = 6 ranks, but there are 4" in err
    code, _, err = ask(*call)
    assert (code, err.count("\n")) == (2, 1)
    assert "add --adapt lora" in err
    code, _, err = ask(*call, "--adapt", "lora", "--set", "parallel.schedule=zigzag")
    assert (code, err) == (2, err.splitlines()[0] + "\n")
    assert "unknown schedule 'zigzag'" in err
    process = on_ranks(shop, "--parallel", "tp=3", start=("-m", "lanner", "train"))
    _, err = process.communicate()
    assert process.returncode == 2
    assert "Traceback" not in err
    assert err.count("lanner:") == 1
    assert "tp 3 does not divide the 4 attention heads of the model" in err
