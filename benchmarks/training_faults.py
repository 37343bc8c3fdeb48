"""A run of eight ranks that loses one of them again and again.

    python -m benchmarks.training_faults          ten minutes, a rank is killed every 60 s; writes training_faults.json
    python -m benchmarks.training_faults --short  two ranks, 40 s, a kill after 20 s; writes nothing

``torchrun`` restarts all ranks, which go on from the newest whole checkpoint; one is written after every step. Steps
repeated are counted by what the first rank writes down, and the losses compared with those of an undisturbed run.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks._record import record
from benchmarks._small_towers import pairs, pairs_loss, small_chain
from benchmarks.parity import adamw
from lanner.distributed.checkpoint import Checkpoints
from lanner.distributed.degrees import Degrees
from lanner.distributed.engine import Engine, EngineConfig

RANKS, SECONDS, EVERY, PAUSE = 8, 600, 60, 0.5


def worker(folder: Path, seconds: float) -> None:
    """One rank of ``torchrun``: steps until the wall clock says that the run is over."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    (folder / f"pid-{rank}").write_text(str(os.getpid()))
    engine = Engine(small_chain("bert"), EngineConfig(Degrees(shards=ranks)), adamw)
    kept = Checkpoints(folder / "checkpoints", engine, "faults")
    step = kept.load()
    begun = float((folder / "begun").read_text())
    while True:
        over = torch.tensor(time.time() - begun > seconds, dtype=torch.int32)
        dist.broadcast(over, 0)
        if over:
            break
        loss = engine.step(*pairs(step), pairs_loss)
        step += 1
        kept.save()
        kept.finish()
        if rank == 0:
            with (folder / "losses").open("a") as file:
                file.write(json.dumps({"step": step, "loss": loss}) + "\n")
        time.sleep(PAUSE)
    dist.barrier()
    dist.destroy_process_group()


def disturbed(ranks: int, seconds: float, every: float) -> dict[str, float]:
    """Kill a rank every so many seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.time()
        (folder / "begun").write_text(str(begun))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        command += ["--max-restarts=100", "--monitor-interval=1", "-m", "benchmarks.training_faults", "--worker"]
        run = subprocess.Popen([*command, name, str(seconds)])
        kills = 0
        while run.poll() is None:
            due, victim = begun + every * (kills + 1), folder / f"pid-{kills % ranks}"
            if due <= time.time() and due < begun + seconds and victim.exists():
                os.kill(int(victim.read_text()), signal.SIGKILL)
                for told in folder.glob("pid-*"):
                    told.unlink()  # a number may be given to another process
                kills += 1
            time.sleep(0.2)
        lines = [json.loads(line) for line in (folder / "losses").read_text().splitlines()]
    repeated = sum(count - 1 for count in Counter(line["step"] for line in lines).values())
    losses = {line["step"]: line["loss"] for line in lines}
    return {
        "kills": kills,
        "steps": max(losses),
        "steps_repeated": repeated,
        "loss": losses[max(losses)],
        "exit_code": run.returncode,
    }


def undisturbed(steps: int) -> float:
    """The last loss of one process, with as many micro-batches as there were ranks."""
    with tempfile.TemporaryDirectory() as name:
        dist.init_process_group("gloo", init_method=f"file://{name}/meeting", rank=0, world_size=1)
        engine = Engine(small_chain("bert"), EngineConfig(micro_batches=RANKS), adamw)
        losses = [engine.step(*pairs(step), pairs_loss) for step in range(steps)]
        dist.destroy_process_group()
    return losses[-1]


def main() -> None:
    if "--worker" in sys.argv:
        worker(Path(sys.argv[-2]), float(sys.argv[-1]))
        return
    short = "--short" in sys.argv
    ranks, seconds, every = (2, 40.0, 20.0) if short else (RANKS, SECONDS, EVERY)
    found = disturbed(ranks, seconds, every)
    if short:
        print(found)
        return
    summary = {
        "kills": found["kills"],
        "steps_repeated": found["steps_repeated"],
        "loss_difference": abs(found["loss"] - undisturbed(int(found["steps"]))),
    }
    print(summary)
    settings = {"ranks": RANKS, "seconds": SECONDS, "kill_every_s": EVERY}
    print(record("training_faults", seed=0, settings=settings, results={"summary": summary, "run": found}))


if __name__ == "__main__":
    main()
