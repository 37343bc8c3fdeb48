"""The model card of a bundle: what to know before using it, generated from the manifest alone.

Markdown with YAML front matter, as the Hugging Face Hub expects. Source: https://huggingface.co/docs/hub/model-cards.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from lanner.data.published import PublishedDataset, published

NAME = "MODEL_CARD.md"
_LIMITS = (
    "It knows the users and items above, as of the last event; new events count in answers, new parameters need "
    "training.",
    "It learned from what people did, and repeats what is uneven in that: popular items, and groups with more events, "
    "are served better. Fairness between groups was not measured.",
    "The metrics were measured on withheld events of past users; they do not say what an answer causes. Test that by "
    "an experiment.",
)


def model_card(manifest: Mapping[str, Any]) -> str:
    """The card of a bundle with this manifest.

    The dataset is named after its folder or file; a published dataset adds its terms and citation.
    """
    config = manifest["config"]
    name = PurePath(str(config.get("data", {}).get("path", ""))).stem or "dataset"
    known = _published(name)
    return "\n".join([*_head(manifest, name), "", *_body(manifest, name, known)]) + "\n"


def _published(name: str) -> PublishedDataset | None:
    """The published dataset of that name, or the one it is a variant of: ``ml-1m-colakg`` is ``ml-1m``."""
    fitting = [one for known, one in published().items() if name == known or name.startswith(f"{known}-")]
    return max(fitting, key=lambda one: len(one.name), default=None)


def _head(manifest: Mapping[str, Any], dataset: str) -> Iterator[str]:
    """YAML front matter; values are written as JSON, a subset of YAML."""
    model, measured = manifest["model"]["name"], measured_metrics(manifest)
    yield from ("---", "library_name: lanner", f"tags: {json.dumps(['recommendation', model])}")
    if measured:
        named = sorted({name.partition("_at_")[0] for name in measured})
        yield f"metrics: {json.dumps(named)}"
        results = {
            "task": {"type": "recommendation", "name": "Recommendation"},
            "dataset": {"type": dataset, "name": dataset, "split": "test"},
            "metrics": [{"type": metric, "name": metric, "value": value} for metric, value in measured.items()],
        }
        yield f"model-index: {json.dumps([{'name': model, 'results': [results]}], ensure_ascii=False)}"
    yield "---"


def _body(manifest: Mapping[str, Any], name: str, known: PublishedDataset | None) -> Iterator[str]:
    told, model = manifest["dataset"], manifest["model"]["name"]
    yield from (f"# {model} on {name}", "")
    yield f"A recommender written by lanner {manifest['lanner']} on {manifest['created'][:10]}."
    yield from ("", "## Data", "")
    yield f"{name}: {told['users']:,} users, {told['items']:,} items, {told['events']:,} events."
    if told.get("rejected"):
        rejected = ", ".join(f"{count:,} {reason}" for reason, count in told["rejected"].items())
        yield f"Rejected rows: {rejected}."
    yield f"Fingerprint: `{told['fingerprint']}`."
    if known is None:
        yield "Terms: not known to Lanner; those under which you have the data hold for this bundle, too."
    else:
        yield f"Terms ({known.licence}): {known.terms} They hold for this bundle, which contains the events."
        yield f"Citation: {known.citation}"
    yield from ("", "## Metrics", "", *_metrics(manifest))
    yield from ("", "## Settings", "", f"Variants: {', '.join(manifest['variants'])}. Settings of the model:", "")
    yield from ("```json", json.dumps(manifest["model"]["settings"], ensure_ascii=False, indent=1), "```")
    yield from ("", "## Limits", "", *(f"- {line}" for line in _LIMITS))
    yield from ("", "## Use", "", "```python", "import lanner", "", 'model = lanner.load("BUNDLE")')
    yield from ("model.recommend(model.dataset.user_ids[:1], k=10)", "```", "", "```sh", "lanner serve BUNDLE", "```")


def _metrics(manifest: Mapping[str, Any]) -> Iterator[str]:
    measured, metrics = measured_metrics(manifest), manifest["metrics"]
    if not measured:
        yield "Not measured: the model was fitted on every event, or without an evaluation."
        return
    split, limits = metrics.get("split", {}), metrics.get("ci95", {})
    yield f"On {metrics.get('users', 0):,} users; split: {split.get('name', 'not stated')}. Interval: 95 %, over users."
    if metrics.get("measured_before_refit"):
        yield "Measured before the model was fitted anew on all events, the withheld ones included."
    yield from ("", "| metric | value | from | to |", "|---|---:|---:|---:|")
    for name, value in measured.items():
        low, high = (f"{one:.4f}" for one in limits[name]) if name in limits else ("", "")
        yield f"| {name} | {value:.4f} | {low} | {high} |"


def measured_metrics(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Numeric metrics; a metric that is undefined for these users is left out."""
    found = manifest["metrics"].get("metrics", {})
    return {name: value for name, value in found.items() if isinstance(value, int | float) and value == value}
