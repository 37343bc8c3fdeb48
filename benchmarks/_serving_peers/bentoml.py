"""BentoML: a service with three typed methods, computed on the loop of each worker."""

import os
import sys
from typing import Any

import bentoml

from benchmarks._serving_peers.common import recommender

WORKERS = "SERVING_PEER_WORKERS"


@bentoml.service(
    workers=int(os.environ.get(WORKERS, "2")),
    traffic={"timeout": 30},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Recommender:
    """The model behind BentoML's addresses."""

    def __init__(self) -> None:
        self.model = recommender()

    @bentoml.api(route="/v1/recommend")
    async def recommend(self, history: list[str], k: int = 10) -> dict[str, Any]:
        """The best items of a history."""
        return self.model.recommend(history, k)

    @bentoml.api(route="/v1/events")
    async def events(self, events: list[dict[str, Any]]) -> dict[str, Any]:
        """Acknowledged, not stored."""
        return self.model.store(events)

    @bentoml.api(route="/v1/items")
    async def put_item(self, title: str, text: str) -> dict[str, Any]:
        """Encoded, not kept."""
        return self.model.put_item(text)


if __name__ == "__main__":
    os.environ[WORKERS] = sys.argv[2]
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    command = ["serve", "benchmarks._serving_peers.bentoml:Recommender", "--port", sys.argv[1]]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
