"""Plot of ``lora.json``: time against ndcg@10 on validation while the language model is trained."""

import json
from pathlib import Path
from typing import Any

from benchmarks._record import RESULTS

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"


def main() -> None:
    draw(json.loads((RESULTS / "lora.json").read_text())["results"])


def draw(results: dict[str, Any]) -> None:
    """Write one panel per dataset, of the first seed; colours are rows."""
    from matplotlib.figure import Figure

    datasets = {name: rows for name, rows in results.items() if name != "summary"}
    figure = Figure(figsize=(6 * len(datasets), 4), layout="constrained")
    panels = figure.subplots(1, len(datasets), squeeze=False)[0]
    for axes, (dataset, rows) in zip(panels, datasets.items(), strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        for row, found in rows.items():
            if found["curves"][0] and row != "companions":  # whose curve is of another score
                seconds, qualities = zip(*found["curves"][0], strict=True)
                axes.plot(seconds, qualities, marker="o", markersize=3, label=row)
        axes.set_title(dataset, fontsize=9, loc="left")
        axes.set_xlabel("processor seconds (one thread) since the adaptation began")
        axes.set_ylabel("ndcg@10 on validation")
        axes.legend(frameon=False, fontsize=8)
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / "adaptation-time-against-ndcg.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
