"""FastAPI under uvicorn: typed bodies, answers written by msgspec straight into the response, uvloop and httptools."""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
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


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Answers once the model is in memory."""
    recommender()
    return {"ready": True}


@app.post("/v1/recommend")
async def recommend(asked: Asked) -> Response:
    """Computed on the loop: handing a millisecond's work to a thread costs more than it gives."""
    return _json(recommender().recommend(asked.history, asked.k))


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
