"""Who is turned away when replies leave too slowly."""

from lanner.serving.http.door import Door


def fill(door: Door) -> int:
    """How many are let in before it is full."""
    entered = 0
    while not door.is_full:
        door.enter()
        entered += 1
    return entered


def test_a_first_burst_is_let_in_up_to_a_bound():
    assert fill(Door(0.02)) == 32


def test_as_many_are_let_in_as_leave_within_the_deadline():
    door, now = Door(0.1), 1e9
    for _ in range(200):
        door.enter()
        now += 0.001
        door.leave(now)
    # 1,000 a second and 60 % of 0.1 s.
    assert 55 <= fill(door) <= 60


def test_the_best_rate_fades_when_fewer_leave():
    door, now = Door(0.1), 1e9
    for step in [0.001] * 200 + [1.0] * 60:
        door.enter()
        now += step
        door.leave(now)
    assert fill(door) == 32
