"""The served versions follow the aliases, and a failing one is not opened repeatedly."""

from types import SimpleNamespace

from lanner.errors import BundleError
from lanner.serving.versions import alias_watcher
from lanner.serving.versions.alias_watcher import AliasWatcher
from lanner.serving.versions.hot_swap import Deployments
from lanner.serving.versions.registry import CHAMPION


class Deployment:
    def __init__(self, version: str) -> None:
        self.version = version

    def verify(self) -> int:
        return 0

    def warm_up(self) -> None: ...

    def catch_up(self) -> None: ...

    def close(self) -> None: ...


async def test_a_version_that_failed_is_opened_again_after_a_while(monkeypatch, caplog):
    now = 100.0
    monkeypatch.setattr(alias_watcher, "time", SimpleNamespace(monotonic=lambda: now))
    aliases, broken, opened = {CHAMPION: "v1"}, {"v2"}, []

    def opening(version: str) -> Deployment:
        opened.append(version)
        if version in broken:
            raise BundleError(f"/secret/{version}: damaged")
        return Deployment(version)

    served: Deployments[Deployment] = Deployments()
    watcher = AliasWatcher(
        SimpleNamespace(aliases=lambda: aliases, path=lambda version: version), served, opening, (CHAMPION,)
    )
    await watcher.start()
    aliases[CHAMPION] = "v2"
    await watcher.follow()
    await watcher.follow()
    assert opened == ["v1", "v2"]
    assert watcher.problems() == [f"{CHAMPION}: version v2 cannot be served, v1 is still served; see the log"]
    assert len([one for one in caplog.records if "/secret/v2: damaged" in one.message]) == 1
    now += alias_watcher.RETRY_SECONDS + 1
    broken.clear()
    await watcher.follow()
    assert (served.versions(), watcher.problems()) == ({CHAMPION: "v2"}, [])
    await served.close()
