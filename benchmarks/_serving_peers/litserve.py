"""LitServe: one address for all requests, a process of HTTP and workers beside it."""

import sys
from typing import Any

import litserve

from benchmarks._serving_peers.common import recommender


class Api(litserve.LitAPI):
    """Bodies and answers as dictionaries."""

    def setup(self, device: str) -> None:
        """Load the model into a worker."""
        self.model = recommender()

    def predict(self, body: dict[str, Any]) -> dict[str, Any]:
        """One request; batches would only queue them up behind one another, FAISS gains nothing from them here."""
        return self.model.answer(body)


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(), accelerator="cpu", workers_per_device=int(sys.argv[2]), timeout=30, fast_queue=True, track_requests=False
    )
    server.run(
        port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning", access_log=False
    )
