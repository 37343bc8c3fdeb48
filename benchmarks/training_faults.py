"""A run of eight ranks that repeatedly loses one of them, and one that loses half of them for a while.

    python -m benchmarks.training_faults          ten minutes, one rank killed every 60 s; then 8 → 4 → 8 ranks; writes
                                                  training_faults.json
    python -m benchmarks.training_faults --short  two ranks and two kills; 2 → 1 → 2 ranks; writes nothing

The ranks are started by torch's elastic agents, the core of ``torchrun``. When a rank is lost, all restart from the
newest complete checkpoint, and one is written after every step; when a node is lost, the other node's ranks do the same
and share the work among fewer. The first rank logs each finished step before its checkpoint: a step logged twice was
repeated. The last loss is compared with that of the same ranks undisturbed.

New processes are forked from one that has imported everything: on few cores, the imports of eight would take the minute
between two kills.
"""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from benchmarks._ranks import run_ranks
from benchmarks._record import record
from benchmarks._small_towers import pairs, pairs_loss, small_chain
from benchmarks.parity import adamw
from lanner.distributed.checkpoint import Checkpoints
from lanner.distributed.config import EngineConfig
from lanner.distributed.degrees import Degrees
from lanner.distributed.engine import Engine

RANKS, SECONDS, EVERY, PAUSE = 8, 600.0, 60.0, 1.0
ELASTIC_STEPS = 40
MODULE = "benchmarks.training_faults"


def worker(folder: str, parts: int) -> None:
    """One rank: runs steps until rank 0 ends the run. parts: micro-batches of all ranks together."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks, place = dist.get_rank(), dist.get_world_size(), Path(folder)
    engine = _engine(ranks, parts)
    kept = Checkpoints(place / "checkpoints", engine, "faults")
    step = kept.load()
    (place / f"pid-{rank}").write_text(str(os.getpid()))
    while True:
        over = torch.tensor((place / "over").exists(), dtype=torch.int32)
        dist.broadcast(over, 0)
        if over:
            break
        loss = engine.step(*pairs(step), pairs_loss)
        step += 1
        if rank == 0:
            with (place / "steps").open("a") as file:
                file.write(json.dumps({"step": step, "loss": loss, "ranks": ranks, "at": time.time()}) + "\n")
        kept.save()
        kept.finish()
        time.sleep(PAUSE)
    dist.barrier()
    dist.destroy_process_group()


def node(folder: str, parts: int, ranks: int, nodes: str, endpoint: str, *, hosts: bool) -> None:
    """An agent with its ranks.

    nodes: minimum and maximum, as in torchrun's ``1:2``. hosts: whether the rendezvous is at this agent.
    """
    from benchmarks import training_faults  # by its name, which forked processes can import

    fewest, _, most = nodes.partition(":")
    multiprocessing.set_forkserver_preload([MODULE])
    config = LaunchConfig(
        min_nodes=int(fewest),
        max_nodes=int(most or fewest),
        nproc_per_node=ranks,
        run_id="faults",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        # Otherwise the agent that is first to bind the port hosts it, which may be the one to be killed.
        rdzv_configs={"is_host": hosts, "last_call_timeout": 2, "keep_alive_interval": 1, "keep_alive_max_attempt": 5},
        max_restarts=100,
        monitor_interval=0.5,
        start_method="forkserver",
        local_addr="127.0.0.1",
    )
    elastic_launch(config, training_faults.worker)(folder, parts)


def _engine(ranks: int, parts: int) -> Engine:
    config = EngineConfig(Degrees(shards=ranks), micro_batches=parts // ranks)
    return Engine(small_chain("bert"), config, adamw)


class Run:
    """Agents on this machine, and what their ranks have written to a folder."""

    def __init__(self, folder: Path, parts: int) -> None:
        self.folder, self._parts, self._log = folder, parts, folder / "log"
        self._agents: list[subprocess.Popen[bytes]] = []
        self._port = 29400 + os.getpid() % 2000

    def start(self, ranks: int, nodes: str = "1") -> "subprocess.Popen[bytes]":
        """Start an agent; the first one hosts the rendezvous."""
        # The agent's store is not emptied between restarts: ranks would look for their predecessors
        # (github.com/pytorch/pytorch/issues/135712). So the ranks have their own store.
        environment = os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", MODULE, "--node", str(self.folder), str(self._parts), str(ranks)]
        command += [nodes, f"127.0.0.1:{self._port}", "guest" if self._agents else "host"]
        with self._log.open("ab") as log:
            agent = subprocess.Popen(command, env=environment, stderr=log, start_new_session=True)
        self._agents.append(agent)
        return agent

    def lines(self) -> list[dict[str, Any]]:
        """The steps that the first rank has logged so far."""
        file = self.folder / "steps"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def pids(self) -> list[Path]:
        """Files with the ids of processes that have begun to train."""
        return sorted(self.folder.glob("pid-*"))

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until a condition holds.

        Raises:
            RuntimeError: the first agent has ended.
        """
        while not ready():
            if self._agents[0].poll() is not None:
                raise RuntimeError(f"the ranks ended: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def end(self, losses: list[float]) -> dict[str, Any]:
        """Tell the ranks to stop after their step; the outcome of the run.

        losses: when ranks or a node were lost, by ``time.time``. timeline: each logged step with its seconds since the
        first one and the ranks that took it, and the losses in those seconds.
        """
        (self.folder / "over").touch()
        codes = [agent.wait(timeout=300) for agent in self._agents]
        lines = self.lines()
        again = [max(0, one["step"] - other["step"] + 1) for one, other in pairwise(lines)]
        return {
            "steps": lines[-1]["step"],
            "steps_repeated": sum(again),
            "most_repeated_at_once": max(again),
            "loss": lines[-1]["loss"],
            "exit_code": codes[0],
            "timeline": {
                "steps": [[round(one["at"] - lines[0]["at"], 2), one["step"], one["ranks"]] for one in lines],
                "lost_at_s": [round(one - lines[0]["at"], 2) for one in losses],
            },
        }

    def kill_node(self, agent: "subprocess.Popen[bytes]") -> None:
        """Kill an agent with its ranks, as if its machine had failed."""
        self._agents.remove(agent)
        with suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()

    def stop(self) -> None:
        """Kill whatever is still running."""
        for agent in list(self._agents):
            self.kill_node(agent)


def killed(ranks: int, seconds: float, every: float) -> dict[str, Any]:
    """Kill a rank at a fixed interval, a different one each time."""
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), parts=ranks)
        try:
            run.start(ranks)
            run.wait(lambda: bool(run.lines()))
            begun, kills, recoveries = time.time(), [], []
            while (due := begun + every * (len(kills) + 1)) < begun + seconds + 1:
                run.wait(lambda due=due: time.time() >= due and len(run.pids()) == ranks)
                victim = int((Path(name) / f"pid-{len(kills) % ranks}").read_text())
                for told in run.pids():
                    told.unlink()  # the id may be reused by another process
                at, steps = time.time(), len(run.lines())
                os.kill(victim, signal.SIGKILL)
                kills.append(at)
                run.wait(lambda steps=steps: len(run.pids()) == ranks and len(run.lines()) > steps + 1)
                recoveries.append(time.time() - at)
            return {"kills": len(kills), **run.end(kills), "recovery_s": sorted(recoveries)[len(recoveries) // 2]}
        finally:
            run.stop()


def elastic(ranks: int, steps: int) -> dict[str, Any]:
    """Two nodes with half of the ranks each; one is lost and comes back."""
    with tempfile.TemporaryDirectory() as name:
        run = Run(Path(name), parts=ranks)

        def reaches(world: int, step: int) -> None:
            run.wait(lambda: any(line["ranks"] == world and line["step"] >= step for line in run.lines()))

        try:
            run.start(ranks // 2, "1:2")
            other = run.start(ranks // 2, "1:2")
            reaches(ranks, steps // 3)
            lost = time.time()
            run.kill_node(other)
            reaches(ranks // 2, 2 * steps // 3)
            run.start(ranks // 2, "1:2")
            reaches(ranks, steps)
            worlds = [run.lines()[0]["ranks"]]
            worlds += [line["ranks"] for before, line in pairwise(run.lines()) if before["ranks"] != line["ranks"]]
            return {"ranks": worlds, **run.end([lost])}
        finally:
            run.stop()


def undisturbed(steps: int, parts: int) -> float:
    """The last loss of undisturbed ranks."""
    engine = _engine(dist.get_world_size(), parts)
    return [engine.step(*pairs(step), pairs_loss) for step in range(steps)][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--node", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.node:
        folder, parts, ranks, nodes, endpoint, role = given.node
        node(folder, int(parts), int(ranks), nodes, endpoint, hosts=role == "host")
        return
    short = given.short
    ranks, seconds, every, steps = (2, 20.0, 10.0, 12) if short else (RANKS, SECONDS, EVERY, ELASTIC_STEPS)
    found = {"killed": killed(ranks, seconds, every), "elastic": elastic(ranks, steps)}
    for one in found.values():
        one["loss_difference"] = abs(one["loss"] - run_ranks(ranks, undisturbed, one["steps"], ranks))
    summary = {name: found["killed"][name] for name in ("kills", "steps_repeated", "loss_difference")}
    print(json.dumps({"summary": summary, **found}, indent=1))
    if not short:
        settings = {"ranks": ranks, "seconds": seconds, "kill_every_s": every, "elastic_steps": steps}
        print(record("training_faults", seed=0, settings=settings, results={"summary": summary, **found}))


if __name__ == "__main__":
    main()
