"""FastAPI under uvicorn: typed bodies, answers written by msgspec straight into the response, uvloop and httptools.

``PORT WORKERS LIMIT``: with a limit, requests are ranked in threads, and whoever finds so many under way is answered
with popular items at once; 0: requests are ranked on the loop, one after another, and nobody is turned away.
"""

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from benchmarks._serving_peers.common import encode_json, recommender


class Asked(BaseModel):
    """The body of a recommendation."""

    history: list[str]
    k: int = 10


class Events(BaseModel):
    """The body of events."""

    events: list[dict[str, Any]]


class Item(BaseModel):
    """The body of a new item."""

    title: str
    text: str


app = FastAPI()
_LIMIT = "SERVING_PEER_LIMIT"
_limit, _under_way = int(os.environ.get(_LIMIT, "0")), 0


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Answers once the model is in memory."""
    recommender()
    return {"ready": True}


@app.post("/v1/recommend")
async def recommend(asked: Asked) -> Response:
    """On the loop, or in a thread where the number under way is limited."""
    global _under_way
    model = recommender()
    if not _limit:
        return _json(model.recommend(asked.history, asked.k))
    if _under_way >= _limit:
        return _json(model.popular(asked.history, asked.k))
    _under_way += 1
    try:
        return _json(await run_in_threadpool(model.recommend, asked.history, asked.k))
    finally:
        _under_way -= 1


@app.post("/v1/events")
async def events(batch: Events) -> Response:
    """Acknowledged, not stored."""
    return _json(recommender().store(batch.events))


@app.put("/v1/items/{item_id}")
async def put_item(item_id: str, item: Item) -> Response:
    """Encoded, not kept."""
    return _json(recommender().put_item(item.text))


def _json(answer: dict[str, Any]) -> Response:
    return Response(encode_json(answer), media_type="application/json")


if __name__ == "__main__":
    os.environ[_LIMIT] = sys.argv[3]  # workers inherit it
    uvicorn.run(
        "benchmarks._serving_peers.fastapi:app",
        port=int(sys.argv[1]),
        workers=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        ws="none",
        lifespan="off",
    )
