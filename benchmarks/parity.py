"""Whether every way to parallelise training gives the losses of one process: 10 steps in float32.

python -m benchmarks.parity                   all modes
python -m benchmarks.parity --short           the modes that the tests run; writes nothing
python -m benchmarks.parity --only deepspeed  modes with this prefix (repeatable); the others keep their results

Each mode records the commit that it was measured at. Without DeepSpeed its modes are left out.

The one process does its arithmetic in the order of the mode, as far as one process can: a float32 sum depends on its
order, and AdamW makes a whole step of a gradient that vanishes but for its last digits. It has the same micro-
batches, each as wide as in the mode (a pipeline keeps the padding columns of a batch, the others drop those of a
micro-batch; they are masked), and adds their gradients as the mode does: in each data-parallel part of the batch
first, then those of the parts; ZeRO-2 and 3 add those of all parts after each micro-batch.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal

import torch

from benchmarks import _record
from benchmarks._ranks import run_ranks
from benchmarks._small_towers import pairs, pairs_loss, small_chain
from lanner.distributed.chain import Stage
from lanner.distributed.config import EngineConfig, Offload
from lanner.distributed.degrees import Degrees
from lanner.distributed.engine import Engine, Loss, trimmed
from lanner.distributed.zero import ZeroEngine

DEEPSPEED = "DeepSpeed"
STEPS, RATE, PARTS = 10, 1e-3, 8
"""Steps, learning rate, micro-batches of all ranks together."""
Order = tuple[tuple[int, ...], ...]
"""Numbers of micro-batches: gradients are added in each group first, then those of the groups."""


@dataclass(frozen=True)
class Mode:
    """One way to parallelise training."""

    name: str
    config: EngineConfig
    lora: bool = False
    whole: bool = False
    """Whether the loss is of the whole batch, with negatives from all ranks."""


def modes() -> list[Mode]:
    plain = {
        "DP": Degrees(replicas=2),
        "FSDP2": Degrees(shards=2),
        "HSDP": Degrees(replicas=2, shards=2),
        "TP 2": Degrees(tensor=2),
        "DP×TP": Degrees(replicas=2, tensor=2),
        "FSDP2×TP": Degrees(shards=2, tensor=2),
        "2×2×2": Degrees(replicas=2, pipeline=2, tensor=2),
        "FSDP2×PP×TP": Degrees(shards=2, pipeline=2, tensor=2),
    }
    made = [Mode(name, EngineConfig(degrees)) for name, degrees in plain.items()]
    for schedule in ("gpipe", "1f1b", "looped-bfs", "interleaved", "zero-bubble", "zbv", "dualpipev"):
        made.append(Mode(f"PP 2 {schedule}", EngineConfig(Degrees(pipeline=2), schedule)))
    for schedule in ("1f1b", "interleaved"):
        made += [
            Mode(f"DP×PP {schedule}", EngineConfig(Degrees(replicas=2, pipeline=2), schedule)),
            Mode(f"FSDP2×PP {schedule}", EngineConfig(Degrees(shards=2, pipeline=2), schedule)),
            Mode(f"TP×PP {schedule}", EngineConfig(Degrees(tensor=2, pipeline=2), schedule)),
        ]
    made += [
        Mode("PP 2 uneven", EngineConfig(Degrees(pipeline=2), bounds=(0, 1, 4))),
        Mode("DP uneven shares", EngineConfig(Degrees(replicas=2), shares=(6, 2))),
        Mode("DP hierarchical", EngineConfig(Degrees(replicas=4), ranks_per_rack=2)),
        Mode("DP checkpointed", EngineConfig(Degrees(replicas=2), checkpointing=True)),
        Mode("DP compiled", EngineConfig(Degrees(replicas=2), compile=True)),
        Mode("DP checkpointed and compiled", EngineConfig(Degrees(replicas=2), checkpointing=True, compile=True)),
    ]
    made += deepspeed_modes()
    made = [replace(mode, lora=lora, name=mode.name + " LoRA" * lora) for mode in made for lora in (False, True)]
    made = [mode for mode in made if not (mode.lora and "AutoTP" in mode.name)]  # AutoTP does not support adapters
    whole = {"DP": Degrees(replicas=2), "FSDP2": Degrees(shards=2), "PP 2": Degrees(pipeline=2)}
    whole |= {"2×2×2": Degrees(replicas=2, pipeline=2, tensor=2), "TP 2": Degrees(tensor=2)}
    made += [Mode(f"{name} whole batch", EngineConfig(degrees), whole=True) for name, degrees in whole.items()]
    alike = [f"{DEEPSPEED} {name}" for name in ("ZeRO-1", "ZeRO-2", "ZeRO-3", "PP 2", "AutoTP 2")]
    return made + [replace(mode, name=f"{mode.name} whole batch", whole=True) for mode in made if mode.name in alike]


def deepspeed_modes() -> list[Mode]:
    """The modes of the other engine."""

    def mode(name: str, zero: Literal[1, 2, 3] = 1, offload: Offload = "none", **degrees: int) -> Mode:
        config = EngineConfig(Degrees(**degrees), engine="deepspeed", zero=zero, offload=offload)
        return Mode(f"{DEEPSPEED} {name}", config)

    return [
        mode("ZeRO-1", 1, replicas=2),
        mode("ZeRO-2", 2, replicas=2),
        mode("ZeRO-3", 3, replicas=2),
        mode("ZeRO-1 offload", 1, "optimizer", replicas=2),
        mode("ZeRO-2 offload", 2, "optimizer", replicas=2),
        mode("ZeRO-3 offload", 3, "optimizer", replicas=2),
        mode("ZeRO-3 offload of weights", 3, "weights", replicas=2),
        mode("PP 2", pipeline=2),
        mode("DP×PP", replicas=2, pipeline=2),
        mode("AutoTP 2", tensor=2),
        mode("DP×AutoTP", replicas=2, tensor=2),
        mode("ZeRO-2×AutoTP", 2, replicas=2, tensor=2),
        mode("ZeRO-3×AutoTP", 3, replicas=2, tensor=2),
    ]


SHORT = ("DP", "TP 2 LoRA", "PP 2 1f1b", "PP 2 zbv", "FSDP2", "PP 2 whole batch")
"""Two-rank modes that the tests run."""


def parts_of(mode: Mode) -> EngineConfig:
    """The mode's settings with the micro-batches per rank that make ``PARTS`` in all."""
    return replace(mode.config, micro_batches=PARTS // mode.config.degrees.data)


def reference(
    family: str, *, lora: bool, whole: bool, padded: bool = False, order: Order = (tuple(range(PARTS)),)
) -> list[float]:
    """Losses of one process.

    padded: whether micro-batches are as wide as the batch. order: micro-batches whose gradients are added first.
    """
    chain = small_chain(family, lora=lora)
    stage = Stage(chain, 0, len(chain.layers))
    optimizer = adamw([one for one in stage.parameters() if one.requires_grad])
    losses = []
    for step in range(STEPS):
        ids, mask, rows = (one.chunk(PARTS) for one in pairs(step))
        texts = [pair if padded else trimmed(*pair) for pair in zip(ids, mask, strict=True)]
        if whole:
            with torch.no_grad():
                vectors_BD = torch.cat([stage(*text) for text in texts])
            loss = pairs_loss(vectors_BD.requires_grad_())
            (gradient_BD,) = torch.autograd.grad(loss, vectors_BD)
            _add_gradients(stage, texts, gradient_BD.chunk(PARTS), lambda out, one: (out * one).sum(), order)
            losses.append(float(loss.detach()))
        else:
            values = _add_gradients(stage, texts, rows, lambda out, row: pairs_loss(out, row) / PARTS, order)
            losses.append(sum(values))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def _add_gradients(
    stage: Stage, texts: list[Any], targets: Sequence[torch.Tensor], loss: Loss, order: Order
) -> list[float]:
    """Leave in the stage the sum of all micro-batches' gradients, added in that order; returns the losses."""
    trained = [one for one in stage.parameters() if one.requires_grad]
    sums, values = [torch.zeros_like(one) for one in trained], []
    for group in order:
        for number in group:
            value = loss(stage(*texts[number]), targets[number])
            value.backward()  # type: ignore[no-untyped-call]
            values.append(float(value.detach()))
        for total, one in zip(sums, trained, strict=True):
            total += one.grad
            one.grad = None
    for total, one in zip(sums, trained, strict=True):
        one.grad = total
    return values


def adamw(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    # The optimiser cannot step tensors and DTensors together.
    return torch.optim.AdamW(parameters, RATE, foreach=False)


def divided(family: str, mode: Mode) -> list[float]:
    """Losses of all ranks together."""
    kind = ZeroEngine if mode.config.engine == "deepspeed" else Engine
    engine = kind(small_chain(family, lora=mode.lora), parts_of(mode), adamw)
    losses = []
    for step in range(STEPS):
        ids, mask, rows = pairs(step)
        if mode.whole:
            losses.append(engine.step_whole(ids, mask, pairs_loss))
        else:
            losses.append(engine.step(ids, mask, rows, pairs_loss))
    return losses


def all_losses(family: str, chosen: list[Mode]) -> dict[str, list[float]]:
    """Losses by mode; called on every rank."""
    return {mode.name: divided(family, mode) for mode in chosen}


def measure(chosen: list[Mode], families: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Differences by family and mode."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {family: {} for family in families}
    for family in families:
        alone = {kind: torch.tensor(_reference_of(family, *kind)) for kind in {_kind(mode) for mode in chosen}}
        for together in _processes(chosen):
            losses = run_ranks(together[0].config.degrees.world, all_losses, family, together)
            for mode in together:
                difference = torch.tensor(losses[mode.name]) - alone[_kind(mode)]
                found[family][mode.name] = float(difference.abs().max())
    return found


def _kind(mode: Mode) -> tuple[bool, bool, bool, Order]:
    """What the losses of one process depend on."""
    config = parts_of(mode)
    numbers = iter(range(PARTS))
    parts = config.shares or (config.micro_batches,) * config.degrees.data
    order: Order = tuple(tuple(islice(numbers, count)) for count in parts)
    if config.engine == "deepspeed" and config.zero > 1:
        order = tuple(zip(*order, strict=True))
    return mode.lora, mode.whole, config.degrees.pipeline > 1 and config.engine == "torch", order


def _reference_of(family: str, lora: bool, whole: bool, padded: bool, order: Order) -> list[float]:
    return reference(family, lora=lora, whole=whole, padded=padded, order=order)


def _processes(chosen: list[Mode]) -> list[list[Mode]]:
    """Modes that share their processes; DeepSpeed keeps the groups of its first engine."""
    found: dict[Any, list[Mode]] = {}
    for mode in chosen:
        degrees = mode.config.degrees
        found.setdefault(degrees if mode.config.engine == "deepspeed" else degrees.world, []).append(mode)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description="Losses of every mode.")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    arguments = parser.parse_args()
    begins = tuple(name.lower() for name in arguments.only) or ("",)
    chosen = [mode for mode in modes() if mode.name.lower().startswith(begins)]
    if find_spec("deepspeed") is None:
        chosen = [mode for mode in chosen if mode.config.engine != "deepspeed"]
        print("DeepSpeed is not installed: its modes are left out")
    if arguments.short:
        print(measure([mode for mode in chosen if mode.name in SHORT], ("bert",)))
        return
    if not chosen:
        raise SystemExit(f"no mode here has a name that begins with {' or '.join(arguments.only)}")
    results = _earlier() if arguments.only else {"difference": {}, "commits": {}}
    results["commits"] |= {mode.name: _record._commit() for mode in chosen}  # before they run: work goes on meanwhile
    for family, values in measure(chosen, ("bert", "llama")).items():
        results["difference"].setdefault(family, {}).update(values)
    everything = [value for values in results["difference"].values() for value in values.values()]
    results["summary"] = {"modes": len(everything), "largest_difference": max(everything)}
    settings = {"steps": STEPS, "learning_rate": RATE, "layers": 4, "micro_batches": PARTS, "dtype": "float32"}
    print(results["summary"])
    print(_record.record("parity", seed=0, settings=settings, results=results))


def _earlier() -> dict[str, Any]:
    """The recorded results."""
    path = _record.RESULTS / "parity.json"
    if not path.exists():
        return {"difference": {}, "commits": {}}
    entry = json.loads(path.read_text())
    names = {name for values in entry["results"]["difference"].values() for name in values}
    known = dict.fromkeys(names, entry["commit"])  # for a file with one commit for all
    return entry["results"] | {"commits": dict(sorted(known.items())) | entry["results"].get("commits", {})}


if __name__ == "__main__":
    main()
