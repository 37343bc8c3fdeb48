"""Settings of the training loop; read by everyone, torch or not."""

from dataclasses import dataclass
from typing import Literal, get_args

from lanner.errors import ConfigError
from lanner.models.finite import require_finite

Objective = Literal["softmax", "bpr"]
CHECKPOINT, REFIT = "training.safetensors", "refit"
"""The file in a checkpoint's folder, and the folder in it for the checkpoint of a refit."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained."""

    epochs: int = 40
    """Maximum number of epochs for each view and for the ranking head."""
    patience: int = 4
    """Early stopping: epochs without an improvement of ndcg@10 on the validation events."""
    batch_users: int = 256
    """Batch size: users per step."""
    learning_rate: float = 0.003
    """Learning rate of the views (AdamW)."""
    fusion_learning_rate: float = 0.002
    """Learning rate of the ranking head (AdamW)."""
    weight_decay: float = 0.0
    """Weight decay of the views (AdamW)."""
    hide: float = 0.5
    """Probability that an item of a history is hidden, to be predicted from the others."""
    num_candidates: int = 8192
    """Items scored per step. Smaller catalogues are scored whole; of larger ones, this many are sampled."""
    objective: Objective = "softmax"
    """Loss of the views: softmax cross-entropy over the candidates, or Bayesian personalised ranking."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train: auto takes a GPU if there is one."""
    seed: int = 0
    """Random seed of batches, hidden items and sampled candidates."""

    def __post_init__(self) -> None:
        require_finite(self, "training")
        for name in ("epochs", "patience", "batch_users", "num_candidates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, received {getattr(self, name)}")
        for name in ("learning_rate", "fusion_learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, received {getattr(self, name)}")
        for name in ("seed", "weight_decay"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must be at least 0, received {getattr(self, name)}")
        if not 0 < self.hide < 1:
            raise ConfigError(f"hide must lie between 0 and 1, received {self.hide}")
        if self.objective not in get_args(Objective):
            raise ConfigError(f"unknown objective '{self.objective}'; choose one of {', '.join(get_args(Objective))}")
