"""Every ranking head starts as the retrieval head, and can deviate from it."""

import pytest
import torch
from torch import nn

from lanner.models.fusion import FUSIONS, ConcatFusion, PairInputs

SIZES = [3, 5]


@pytest.fixture
def pair() -> PairInputs:
    """Four users, six items, two views; the last two items are cold."""
    torch.manual_seed(0)
    users, items = ([torch.randn(count, size) for size in SIZES] for count in (4, 6))
    biases = [torch.randn(6) for _ in SIZES]
    scores = [user @ item.T + bias for user, item, bias in zip(users, items, biases, strict=True)]
    return PairInputs(users, items, scores, torch.tensor([False] * 4 + [True] * 2))


@pytest.mark.parametrize("name", FUSIONS)
def test_it_begins_as_the_sum_of_the_views(name, pair):
    fusion = FUSIONS[name](SIZES)
    assert fusion.correction(pair).shape == (4, 6)
    torch.testing.assert_close(fusion(pair), pair.scores[0] + pair.scores[1])


@pytest.mark.parametrize("name", FUSIONS)
def test_views_weigh_otherwise_for_cold_items(name, pair):
    fusion = FUSIONS[name](SIZES)
    fusion.get_buffer("weights").copy_(torch.tensor([[1.0, 2.0], [3.0, 1.0]]))
    weights = fusion.view_weights(pair.is_cold_C)
    assert (weights[:4, 1] > weights[:4, 0]).all()
    assert (weights[4:, 0] > weights[4:, 1]).all()
    expected = sum(weights[:, view] * scores for view, scores in enumerate(pair.scores))
    torch.testing.assert_close(fusion.retrieval(pair), expected)
    torch.testing.assert_close(fusion(pair), expected)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "sum"])
def test_every_parameter_is_learnt_once_the_correction_has_begun(name, pair):
    """A head whose last layer starts at nothing must still get a gradient there, and later everywhere."""
    torch.manual_seed(1)
    fusion = FUSIONS[name](SIZES)
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.05)
    wanted = torch.randn(4, 6)
    for _ in range(3):
        optimizer.zero_grad()
        ((fusion(pair) - wanted) ** 2).sum().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in fusion.parameters())
    assert (fusion.correction(pair) != 0).any()


def shaken(name: str) -> nn.Module:
    torch.manual_seed(2)
    fusion = FUSIONS[name](SIZES)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion


@pytest.mark.parametrize("name", FUSIONS)
def test_a_pair_is_scored_alike_in_any_company(name, pair):
    fusion = shaken(name)
    alone = PairInputs(
        [user[2:3] for user in pair.users],
        [item[[5, 1]] for item in pair.items],
        [scores[2:3][:, [5, 1]] for scores in pair.scores],
        pair.is_cold_C[[5, 1]],
    )
    torch.testing.assert_close(fusion(alone), fusion(pair)[2:3][:, [5, 1]], rtol=1e-4, atol=1e-5)


def test_the_split_first_layer_is_an_mlp_over_the_concatenation(pair):
    fusion = shaken("concat")
    assert isinstance(fusion, ConcatFusion)
    norm = lambda rows: nn.functional.layer_norm(rows, rows.shape[1:])
    plain = nn.Linear(2 * sum(SIZES), 64)
    with torch.no_grad():
        plain.weight.copy_(torch.cat([fusion.from_user.weight, fusion.from_item.weight], 1))
        plain.bias.copy_(fusion.from_user.bias)
        for user in range(4):
            for item in range(6):
                parts = [
                    norm(side[row : row + 1]) for rows, row in ((pair.users, user), (pair.items, item)) for side in rows
                ]
                expected = fusion.out(torch.relu(plain(torch.cat(parts, 1))))
                torch.testing.assert_close(fusion.correction(pair)[user, item], expected[0, 0], rtol=1e-4, atol=1e-5)


def test_gates_scale_each_view(pair):
    fusion = shaken("gated")
    norm = lambda sides, row: torch.cat([nn.functional.layer_norm(s[row], s.shape[1:]) for s in sides])
    weights = fusion.view_weights(pair.is_cold_C)
    with torch.no_grad():
        found = fusion(pair)
        for user in range(4):
            for item in range(6):
                of_user = 2 * torch.sigmoid(fusion.user_gate(norm(pair.users, user)))
                of_item = 2 * torch.sigmoid(fusion.item_gate(norm(pair.items, item)))
                expected = 0.0
                for v in range(2):
                    product = pair.users[v][user] @ pair.items[v][item]
                    gain = of_user[v] * of_item[v] - 1
                    expected += weights[item, v] * (pair.scores[v][user, item] + gain * product)
                torch.testing.assert_close(found[user, item], expected, rtol=1e-4, atol=1e-5)


def test_attention_is_over_the_views_of_the_user(pair):
    fusion = shaken("cross-attention")
    norm = lambda side, row: nn.functional.layer_norm(side[row], side.shape[1:])
    with torch.no_grad():
        found = fusion.correction(pair)
        for user in range(4):
            for item in range(6):
                expected = torch.zeros(())
                for v, of_item in enumerate(pair.items):
                    asked, said = fusion.query[v](norm(of_item, item)), fusion.out[v](norm(of_item, item))
                    keys = [fusion.key[w](norm(side, user)) for w, side in enumerate(pair.users)]
                    messages = [fusion.message[w](norm(side, user)) for w, side in enumerate(pair.users)]
                    share = torch.stack([asked @ key for key in keys]).div(32**0.5).softmax(0)
                    expected = expected + sum(share[w] * (said @ messages[w]) for w in range(2))
                torch.testing.assert_close(found[user, item], expected, rtol=1e-3, atol=1e-4)
