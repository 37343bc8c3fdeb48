"""``lanner profile`` of a bundle."""

import json


def test_a_text_that_the_model_does_not_read_is_said_to_have_no_effect(ask, bundle):
    code, out, err = ask("profile", bundle, "--requests", "2", "--text", "slow films", "--json")
    assert (code, err) == (0, "lanner: the model does not use texts; --text had no effect\n")
    assert json.loads(out)["stages"]
