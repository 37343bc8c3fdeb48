"""Memory and time of a training step on a graph with many items, with all neighbours and with sampled ones.

Each run trains the relational view in a separate process, on random events, one attribute of the items and friends:
``peak_mib`` is the largest resident memory during the measured steps, ``kept_mib`` what is resident before them
(interpreter, graph, parameters and AdamW's averages; the first step, which creates the averages, is not measured), and
``step_mib`` the difference. Every step scores the same sampled candidates, so that the losses compare; without sampling
AdamW is not fused, as in any training without ``neural.fanout``.

    python -m benchmarks.sampling [--items N] [--fanout N …]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SEED, DIMENSIONS, STEPS = 0, 128, 3
EVENTS_PER_USER, FRIENDS_PER_USER, ITEMS_PER_VALUE = 8, 4, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=400_000, help="and half as many users")
    parser.add_argument("--fanout", type=int, nargs="+", default=[2, 4, 8], help="beside all neighbours")
    parser.add_argument("--candidates", type=int, default=1024)
    parser.add_argument("--users-per-step", type=int, default=256)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only is not None:
        print(json.dumps(measure(given.items, given.only, given.candidates, given.users_per_step)))
        return
    rows = {f"fanout_{fanout}": alone(fanout) for fanout in given.fanout}
    whole = rows["all_neighbours"] = alone(0)
    for row in rows.values():
        row["peak_ratio"] = whole["peak_mib"] / row["peak_mib"]
        row["step_ratio"] = whole["step_mib"] / row["step_mib"]
    settings = {key: value for key, value in vars(given).items() if key != "only"}
    from benchmarks._record import record

    print(record("sampling", seed=SEED, settings=settings | {"dimensions": DIMENSIONS, "steps": STEPS}, results=rows))


def alone(fanout: int) -> dict[str, float]:
    """The measurement in a separate process."""
    command = [sys.executable, "-m", "benchmarks.sampling", "--only", str(fanout), *sys.argv[1:]]
    row: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(fanout, row, flush=True)
    return row


def measure(items: int, fanout: int, candidates: int, users_per_step: int) -> dict[str, float]:
    """Memory and time of ``STEPS`` steps after the first one."""
    import torch

    from lanner.models.neural import NeuralRecommender
    from lanner.models.neural_config import NeuralConfig
    from lanner.training.config import TrainingConfig
    from lanner.training.tasks import ViewTask

    dataset = random_dataset(items)
    config = NeuralConfig(views=("relational",), fusion="sum", dimensions=DIMENSIONS, fanout=fanout)
    model = NeuralRecommender(config).untrained(dataset)
    training = TrainingConfig(num_candidates=candidates, batch_users=users_per_step, device="cpu")
    task = ViewTask(model.network, "relational", dataset, None, training)
    optimizer = task.optimizer()
    task.module.train()

    def step(number: int) -> float:
        torch.manual_seed(number)
        loss = task.loss(number)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step(0)
    optimizer.zero_grad(set_to_none=True)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    kept, begun = status("VmRSS"), time.perf_counter()
    losses = [step(number) for number in range(1, STEPS + 1)]
    seconds, peak = (time.perf_counter() - begun) / STEPS, status("VmHWM")
    return {
        "peak_mib": peak,
        "kept_mib": kept,
        "step_mib": peak - kept,
        "seconds_per_step": seconds,
        "loss": float(np.mean(losses)),
    }


def status(field: str) -> float:
    """A line of the process's memory statistics in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def random_dataset(num_items: int) -> Any:
    """Users with as many events and friends each, and items with one value of an attribute each, all uniform."""
    from lanner.data.catalogue import Attribute, Catalogue
    from lanner.data.ids import IdMap
    from lanner.data.interactions import Dataset, Interactions
    from lanner.data.ragged import Ragged

    random, num_users = np.random.default_rng(SEED), num_items // 2
    user = np.repeat(np.arange(num_users, dtype=np.int32), EVENTS_PER_USER)
    item = random.integers(0, num_items, len(user), dtype=np.int32)
    values = random.integers(0, num_items // ITEMS_PER_VALUE, num_items, dtype=np.int32)
    friends = random.integers(0, num_users, num_users * FRIENDS_PER_USER, dtype=np.int32)
    kinds = Attribute(
        tuple(map(str, range(num_items // ITEMS_PER_VALUE))),
        Ragged.from_pairs(np.arange(num_items), values, num_items),
    )
    users, items = (
        IdMap([f"{kind}{row}" for row in range(size)]) for kind, size in (("u", num_users), ("i", num_items))
    )
    return Dataset(
        Interactions(user, item),
        users,
        items,
        Catalogue(("",) * num_items, items.external, {"kind": kinds}),
        Catalogue.blank(users.external),
        ties=Ragged.from_pairs(np.repeat(np.arange(num_users), FRIENDS_PER_USER), friends, num_users),
    )


if __name__ == "__main__":
    main()
