"""When a version that wears out is opened anew."""

from types import SimpleNamespace

from lanner.serving.versions import following
from lanner.serving.versions.following import Follower
from lanner.serving.versions.registry import CHAMPION
from lanner.serving.versions.swap import Live


class Version:
    version = "v1"

    def __init__(self) -> None:
        self.is_worn = False

    def verify(self) -> int:
        return 0

    def warm_up(self) -> None: ...

    def catch_up(self) -> None: ...

    def close(self) -> None: ...


def test_what_wears_out_again_at_once_is_not_opened_over_and_over(monkeypatch, tmp_path):
    now = 100.0
    monkeypatch.setattr(following.time, "monotonic", lambda: now)
    opened: list[Version] = []

    def opening(_):
        opened.append(Version())
        return opened[-1]

    versions = SimpleNamespace(aliases=lambda: {CHAMPION: "v1"}, path=lambda _: tmp_path)
    follower = Follower(versions, live := Live(), opening, (CHAMPION,))
    follower.start()
    follower.follow()
    assert len(opened) == 1
    opened[-1].is_worn = True
    follower.follow()
    assert len(opened) == 2
    opened[-1].is_worn = True
    follower.follow()
    now += following.RETRY_SECONDS - 1
    follower.follow()
    assert len(opened) == 2
    assert live.serves(CHAMPION)
    now += 2
    follower.follow()
    assert len(opened) == 3
    live.close()
