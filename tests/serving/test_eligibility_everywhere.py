"""A random walk that tries to get an ineligible item recommended, on every path to an answer."""

import random
from pathlib import Path

import pytest
from running import PATIENT, events, ids, running
from small_shop import WORDS

from lanner.serving.deployment import Deployment
from lanner.serving.messages import Filters, Item, RecommendRequest
from lanner.serving.service import LannerService
from lanner.serving.versions.experiments import Experiment
from lanner.serving.versions.registry import CHALLENGER, CHAMPION, Registry

VARIANTS = ("full", "int8", "popularity")
USERS = ("u1", "u2", "u3", "newcomer", "nobody")
SHELF = {f"i{row}": f"shelf{row // 20}" for row in range(60)}
EXPERIMENT = Experiment("halves", {CHAMPION: 0.5, CHALLENGER: 0.5})


class Walk:
    """What must hold, kept beside the service in the plainest way. items: shelf by id. hidden: of those."""

    def __init__(self, service: LannerService, seed: int) -> None:
        self.service, self.random = service, random.Random(seed)
        self.items, self.hidden = dict(SHELF), set[str]()
        self.seen = {user: set[str]() for user in USERS}
        for user in ("u1", "u2", "u3"):
            dataset = service._deployments.all()[0].dataset
            rows = dataset.seen[dataset.users.row(user)]
            self.seen[user] = {dataset.items.external[row] for row in rows}

    @property
    def available(self) -> set[str]:
        return set(self.items) - self.hidden

    async def step(self) -> None:
        act = self.random.choice([self.delete, self.put, self.meet, self.meet, self.hide, self.show])
        await act()

    async def delete(self) -> None:
        item_id = self.random.choice(list(SHELF))
        await self.service.delete_item(item_id)
        self.items.pop(item_id, None)
        self.hidden.discard(item_id)

    async def put(self) -> None:
        item_id = self.random.choice([*SHELF, "fresh1", "fresh2"])
        shelf = self.random.choice(["shelf0", "odd"])
        text = " ".join(self.random.choices(WORDS, k=6))
        await self.service.put_item(item_id, Item(title=item_id, text=text, attributes={"shelf": [shelf]}))
        self.items[item_id] = shelf
        self.hidden.discard(item_id)

    async def meet(self) -> None:
        user, item_id = self.random.choice(USERS[:4]), self.random.choice(list(self.items))
        await events(self.service, user, item_id)
        self.seen[user].add(item_id)

    async def hide(self) -> None:
        item_id = self.random.choice(list(self.items))
        item = Item(title=item_id, attributes={"shelf": [self.items[item_id]]}, available=False)
        await self.service.put_item(item_id, item)
        self.hidden.add(item_id)

    async def show(self) -> None:
        for item_id in self.hidden:
            await self.service.put_item(item_id, Item(title=item_id, attributes={"shelf": [self.items[item_id]]}))
        self.hidden.clear()

    async def check(self) -> None:
        for user in self.random.sample(USERS, 2):
            await self.check_user(user)
        history = self.random.sample(list(SHELF), 3)
        known = {one for one in history if one in self.items}
        answer = await self.service.recommend(RecommendRequest(history=history, k=100))
        assert set(ids(answer)) == self.available - known
        words = " ".join(self.random.choices(WORDS, k=3))
        found = ids(await self.service.search(words, 100, self.random.choice([None, "u1"])))
        assert set(found) == self.available
        one = self.random.choice(list(self.items))
        assert set(ids(await self.service.similar_items(one, 100))) == self.available - {one}

    async def check_user(self, user: str) -> None:
        eligible = self.available - self.seen[user]
        for request in (
            RecommendRequest(user_id=user, k=100),
            RecommendRequest(user_id=user, k=100),  # from the cache
            RecommendRequest(user_id=user, k=100, explain=True),
            RecommendRequest(user_id=user, k=100, text=WORDS[3]),
            RecommendRequest(user_id=user, k=100, diversity=0.5),
        ):
            assert set(ids(await self.service.recommend(request))) == eligible, request
        assert set(ids(await self.service.recommend(RecommendRequest(user_id=user, k=5)))) <= eligible
        everything = RecommendRequest(user_id=user, k=100, exclude_seen=False)
        assert set(ids(await self.service.recommend(everything))) == self.available
        deny = self.random.sample(list(SHELF), 10)
        allow = self.random.sample([*self.items], 20)
        for filters, left in (
            (Filters(deny=deny), eligible - set(deny)),
            (Filters(allow=allow, deny=deny), eligible & set(allow) - set(deny)),
            (Filters(attributes={"shelf": ["shelf0"]}), {one for one in eligible if self.items[one] == "shelf0"}),
        ):
            answer = await self.service.recommend(RecommendRequest(user_id=user, k=100, filters=filters))
            assert set(ids(answer)) == left, filters


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variant", VARIANTS)
async def test_no_path_recommends_an_item_that_is_not_eligible(shop, tmp_path, monkeypatch, variant, seed):
    monkeypatch.setattr(Deployment, "_rank", lambda self, _, queries: self.rankers[variant].rank(queries))
    async with running(shop, tmp_path / "events.db", PATIENT) as service:
        walk = Walk(service, seed)
        await walk.check()
        for _ in range(25):
            await walk.step()
            await walk.check()


async def test_nor_does_a_challenger(shop, trained_shop, tmp_path):
    registry = Registry(tmp_path / "bundles")
    for alias, path in ((CHAMPION, shop), (CHALLENGER, trained_shop)):
        registry.set_alias(alias, registry.add(Path(path)))
    async with running(registry.folder, tmp_path / "events.db", experiment=EXPERIMENT) as service:
        assert {EXPERIMENT.arm_of(user) for user in USERS} == {CHAMPION, CHALLENGER}
        walk = Walk(service, 9)
        for _ in range(15):
            await walk.step()
            await walk.check()
