"""MLServer: handlers of our own beside its inference protocol, whose tensors of strings would cost more to wrap."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlserver
from fastapi import Request, Response
from mlserver.handlers import custom_handler

from benchmarks._serving_peers.common import decode_json, encode_json, recommender


class Runtime(mlserver.MLModel):
    """The model in MLServer's own process: its parallel workers serve the inference protocol alone."""

    async def load(self) -> bool:
        """Into memory."""
        self.model = recommender()
        return True

    @custom_handler(rest_path="/answer")
    async def answer(self, request: Request) -> Response:
        """Any request, told apart by its body."""
        answer: dict[str, Any] = self.model.answer(decode_json(await request.body()))
        return Response(encode_json(answer), media_type="application/json")


def _configured(folder: Path, port: int) -> None:
    # Port 0: MLServer also listens for gRPC and metrics, which nobody asks for here.
    server = {"http_port": port, "grpc_port": 0, "metrics_port": 0, "parallel_workers": 0}
    server |= {"host": "127.0.0.1", "debug": False, "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(server))
    model = {"name": "recommender", "implementation": "benchmarks._serving_peers.mlserver.Runtime"}
    (folder / "model-settings.json").write_text(json.dumps(model))


if __name__ == "__main__":
    folder = tempfile.mkdtemp()
    _configured(Path(folder), int(sys.argv[1]))
    os.execv(str(Path(sys.executable).with_name("mlserver")), ["mlserver", "start", folder])
