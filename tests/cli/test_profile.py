"""``lanner profile`` of a bundle."""

import json

import pytest
from cli_calls import complaint


def test_a_text_that_the_model_does_not_read_is_said_to_have_no_effect(ask, bundle):
    code, out, err = ask("profile", bundle, "--requests", "2", "--text", "slow films", "--json")
    assert (code, err) == (0, "lanner: the model does not use texts; --text had no effect\n")
    assert json.loads(out)["stages"]


def test_an_unknown_runtime_is_refused_even_if_the_model_reads_no_texts(ask, bundle):
    said = complaint(ask("profile", bundle, "--requests", "2", "--text", "slow films", "--backend", "nonsense"))
    assert "unknown backend 'nonsense'; choose one of torch, " in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--plot", "time.txt"), "--plot time.txt: the name must end in .svg or .png"),
        (("--plot", "nowhere/time.svg"), "--plot nowhere/time.svg: cannot be written there"),
        (("--backend", "nonsense"), "--backend nonsense affects only the text encoder"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_measured(ask, arguments, said):
    pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
    assert said in complaint(ask("profile", "no-bundle", *arguments))
