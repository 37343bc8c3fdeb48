"""What is held of users' histories, and that its size is known."""

from stand_ins import small_world

from lanner.serving.histories import Histories
from lanner.serving.live import LiveItems
from lanner.serving.messages import Event
from lanner.serving.store import open_store

USERS = [f"u{row}" for row in range(8)]


def test_the_bytes_held_are_those_of_the_users_held(tmp_path):
    dataset = small_world()
    store = open_store(str(tmp_path / "events.db"))
    counted = lambda held: Histories(dataset, LiveItems(dataset), store, length=20, most_users=held)

    def afresh(users):
        """Bytes of one who has only ever been asked for these users."""
        other = counted(100)
        for user_id in users:
            other.of(user_id)
        return other.held_bytes

    histories = counted(5)
    assert histories.held_bytes == 0
    for user_id in [*USERS, *USERS]:
        histories.of(user_id)
    assert len(histories) == 5
    assert histories.held_bytes == afresh(USERS[3:]) > 5 * histories.of("u7").rows.nbytes
    events = [Event(user_id="u7", item_id=f"i{row}") for row in range(12)]
    before = histories.held_bytes
    store.append(events, 0.0)
    histories.happened(events)
    assert histories.held_bytes == before + 12 * 8 == afresh(USERS[3:])
    histories.drop(["u7", "u0"])
    assert histories.held_bytes == afresh(USERS[3:7])
    histories.drop(None)
    assert (histories.held_bytes, len(histories)) == (0, 0)
    store.close()
