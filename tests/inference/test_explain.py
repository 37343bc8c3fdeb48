"""Names of the components of a score."""

from lanner.inference.explain import Explanation, ScorePart, reasons

TITLES, USERS = ("Alien", "Brazil", "Cube"), ("Uma",)


def test_every_part_has_a_name_and_the_largest_is_first():
    kinds = ("text", "query", "profile", "popularity", "head")
    parts = (
        ScorePart("history", 1, 0.5),
        ScorePart("history", -1, 3.0, 12),
        ScorePart("friend", -1, 2.0, 3),
        *(ScorePart(kind, -1, 1.0) for kind in kinds),
    )
    named = reasons(Explanation(2, 10.5, parts), TITLES.__getitem__, USERS.__getitem__)
    assert all(reason.name for reason in named)
    assert [reason.name for reason in named][:2] == ["12 other items of your history", "3 other friends"]
    assert named[-1].name == "Brazil"
    assert sum(reason.value for reason in named) == 10.5
