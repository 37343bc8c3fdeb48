"""Settings of the training loop; importable without torch."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from lanner.errors import ConfigError
from lanner.models.bounds import check_numbers
from lanner.models.neural_config import Dtype

Objective = Literal["softmax", "bpr"]
Log = Literal["none", "tensorboard", "mlflow"]
CHECKPOINT, REFIT = "training.safetensors", "refit"
"""The file in a checkpoint folder, and its subfolder for the checkpoint of a refit."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained."""

    epochs: int = 40
    """Maximum number of epochs for each view and for the ranking head; the language view has as many again at its lower
    learning rate."""
    patience: int = 4
    """Early stopping: epochs without an improvement of ndcg@10 on the validation events."""
    batch_users: int = 256
    """Batch size: users per step."""
    learning_rate: float = 0.003
    """Learning rate of the views (AdamW); the language view ends with a tenth of it."""
    fusion_learning_rate: float = 0.002
    """Learning rate of the ranking head (AdamW)."""
    weight_decay: float = 0.0
    """Weight decay of the views (AdamW)."""
    hide: float = 0.5
    """Probability that an item of a history is hidden and must be predicted from the others."""
    num_candidates: int = 8192
    """Items scored per step. Smaller catalogues are scored in full; from larger ones, this many are sampled."""
    objective: Objective = "softmax"
    """Loss of the views: softmax cross-entropy over the candidates, or Bayesian personalised ranking."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: on a GPU if there is one."""
    seed: int = 0
    """Random seed of batches, hidden items and sampled candidates."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints, also of an adaptation, besides those at the end of each epoch; more if they would
    take over a twentieth of the time. 0: after every step."""
    log: Log = "none"
    """Where losses, rates and validation metrics are written while training; extra ``tracking``."""
    log_folder: str = "lanner-log"
    """Folder of that log; mlflow uses MLFLOW_TRACKING_URI instead if it is set."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "training",
            at_least_1=("epochs", "patience", "batch_users", "num_candidates"),
            at_least_0=("seed", "weight_decay", "checkpoint_seconds"),
            above_0=("learning_rate", "fusion_learning_rate"),
        )
        if not 0 < self.hide < 1:
            raise ConfigError(f"hide must be between 0 and 1, received {self.hide}")
        if self.log not in get_args(Log):
            raise ConfigError(f"training.log must be one of {', '.join(get_args(Log))}, received '{self.log}'")
        if self.objective not in get_args(Objective):
            raise ConfigError(f"unknown objective '{self.objective}'; choose one of {', '.join(get_args(Objective))}")

    @property
    def decisive(self) -> "TrainingConfig":
        """These settings without those that do not affect what is learned."""
        return replace(self, checkpoint_seconds=0.0, log="none", log_folder="")


Method = Literal["none", "lora", "dora", "full"]
AdaptationObjective = Literal["histories", "companions"]
ADAPTATION = "adaptation"
"""Subfolder of the training checkpoint that holds the checkpoint of an adaptation."""


@dataclass(frozen=True)
class AdaptationConfig:
    """How the language model is trained on the interactions, before the views read its vectors."""

    method: Method = "none"
    """How the language model is fine-tuned: none, lora or dora (adapters; extra ``adapt``), or full (all weights)."""
    objective: AdaptationObjective = "histories"
    """What it learns from the interactions: histories (items hidden from a history, jointly with the language view), or
    companions (which items the same users chose: contrastive, without a view)."""
    temperature: float = 0.2
    """Of the softmax over companions: the smaller, the more similar the texts of likely companions must be."""
    rank: int = 8
    """Rank of the adapters."""
    alpha: float = 16.0
    """Scale of the adapters: they are multiplied by alpha / rank."""
    target_modules: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter, such as ["query", "value"]; empty: all in each layer."""
    trained_layers: int = 0
    """Number of upper layers to train; those below stay frozen. 0: train all."""
    cache: bool = True
    """Whether activations below the trained layers are computed once and kept on disk."""
    cache_gib: float = 8.0
    """Maximum disk space in GiB for these activations, including those of earlier runs."""
    tokens_per_step: int = 4096
    """Batch size: approximate number of item-text tokens per step."""
    batch_users: int = 2048
    """Users per step, over whose histories the loss is computed; unused with companions."""
    learning_rate: float = 0.0
    """Learning rate (AdamW); 0: 0.001 for adapters, 0.0001 for full weights."""
    weight_decay: float = 0.01
    """Weight decay (AdamW)."""
    epochs: int = 10
    """Maximum number of epochs (passes over all item texts)."""
    patience: int = 2
    """Early stopping: epochs without an improvement of ndcg@10 on the validation events."""
    dtype: Dtype = "auto"
    """Compute dtype of the model (autocast; trained weights stay float32); auto: bfloat16 where the device supports it
    natively."""
    checkpointing: bool = False
    """Gradient checkpointing: recompute activations instead of keeping them; a third slower, far less memory."""
    base_bits: Literal[4, 8, 32] = 32
    """Bits of the frozen weights under adapters; 4 and 8 need the package bitsandbytes."""
    output: str | None = None
    """Folder to write the adapter to, for neural.encoder.adapter; with full: the model, for neural.encoder.model."""
    seed: int = 0
    """Random seed of batches, dropout and new adapters."""

    def __post_init__(self) -> None:
        check_numbers(
            self,
            "adaptation",
            at_least_1=("rank", "tokens_per_step", "batch_users", "epochs", "patience"),
            at_least_0=("trained_layers", "learning_rate", "weight_decay", "seed", "cache_gib"),
            above_0=("alpha", "temperature"),
        )
        if self.method not in get_args(Method):
            raise ConfigError(
                f"adaptation.method must be one of {', '.join(get_args(Method))}, received '{self.method}'"
            )
        if self.objective not in get_args(AdaptationObjective):
            known = ", ".join(get_args(AdaptationObjective))
            raise ConfigError(f"adaptation.objective must be one of {known}, received '{self.objective}'")
        if self.dtype not in get_args(Dtype):
            raise ConfigError(f"adaptation.dtype must be one of {', '.join(get_args(Dtype))}, received '{self.dtype}'")
        if self.base_bits not in (4, 8, 32):
            raise ConfigError(f"adaptation.base_bits must be 4, 8 or 32, received {self.base_bits}")
        if self.method == "full" and self.base_bits != 32:
            raise ConfigError(f"adaptation.base_bits={self.base_bits} needs adapters; set adaptation.method=lora")

    @property
    def rate(self) -> float:
        """The effective learning rate."""
        return self.learning_rate or (1e-3 if self.uses_adapters else 1e-4)

    @property
    def uses_adapters(self) -> bool:
        return self.method in ("lora", "dora")
