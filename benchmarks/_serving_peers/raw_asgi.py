"""Not a peer but the limit: a bare ASGI handler under Granian that reads JSON, searches FAISS and writes JSON."""

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks._serving_peers.common import FOLDER, Retrieval, decode_json, encode_json

_START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
_retrieval = Retrieval(Path(os.environ[FOLDER]))


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """No ranking, no exclusions: what is not a history is acknowledged without a look."""
    if scope["type"] != "http":
        return
    body = b"{}" if scope["method"] != "POST" else (await receive())["body"]
    asked, answer = decode_json(body), {"accepted": 1}
    if "history" in asked:
        rows, scores = _retrieval.search(_retrieval.user(asked["history"])[1])
        best = zip(rows[: asked["k"]].tolist(), scores[: asked["k"]].tolist(), strict=True)
        answer = {"items": [{"item_id": str(row), "score": score} for row, score in best]}
    await send(_START)
    await send({"type": "http.response.body", "body": encode_json(answer)})


if __name__ == "__main__":
    options = ["--interface", "asgi", "--port", sys.argv[1], "--workers", sys.argv[2], "--no-ws", "--loop", "uvloop"]
    options += ["--log-level", "warning", "benchmarks._serving_peers.raw_asgi:app"]
    os.execv(sys.executable, [sys.executable, "-m", "granian", *options])
