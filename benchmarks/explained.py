"""One recommendation with its reasons, for the report's figure: EASE on the bundled dataset.

``python -m benchmarks.explained`` writes ``benchmarks/results/explained.json``.
"""

import lanner
from benchmarks._record import record

USER, REGULARISATION = "42", 300.0


def main() -> None:
    data = lanner.load_dataset("ml-latest-small")
    model = lanner.EASE(regularisation=REGULARISATION).fit(data)
    (best,) = model.recommend(users=[USER], k=1).rows(named=True)
    found = model.explain(USER, best["item_id"])
    parts = [{"kind": part.kind, "name": part.name, "value": float(part.value)} for part in found.parts]
    results = {
        "model": "EASE on ml-latest-small",
        "user": f"user {USER}",
        "item": found.title,
        "score": float(found.score),
        "sentence": found.sentence,
        "parts": parts,
    }
    print(record("explained", seed=0, settings={"user": USER, "regularisation": REGULARISATION}, results=results))


if __name__ == "__main__":
    main()
