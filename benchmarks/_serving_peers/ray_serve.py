"""Ray Serve: the model as replicas behind Ray's HTTP proxy, on one machine without a dashboard."""

import sys
import time
from typing import Any

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks._serving_peers.common import decode_json, encode_json, recommender


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 0.5})
class Recommender:
    """One replica."""

    def __init__(self) -> None:
        self.model = recommender()

    async def __call__(self, request: Request) -> Any:
        """Any request, told apart by its body."""
        if request.method == "GET":
            return Response(b"{}")
        return Response(
            encode_json(self.model.answer(decode_json(await request.body()))), media_type="application/json"
        )


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, logging_level="warning", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Recommender.options(num_replicas=int(sys.argv[2])).bind(), route_prefix="/")
    while True:
        time.sleep(60)
