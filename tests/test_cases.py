"""Small, often slightly malformed inputs, each with its expected value.

They are read from the folder in ``LANNER_CASES`` or, if it exists, ``../shared/cases`` next to the project.
``python -m tests.test_cases`` counts how many are right.
"""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from lanner.data.feedback import Feedback
from lanner.data.interactions import Dataset
from lanner.data.sources import load
from lanner.data.splitting import leave_last_out, random_ratio
from lanner.errors import LannerError
from lanner.models.item_knn import ItemKNN

CASES = Path(os.environ.get("LANNER_CASES") or Path(__file__).parents[2] / "shared" / "cases")


def error(path: Path) -> str:
    """The one line with which a file is refused; the empty string where it is read."""
    try:
        load(path)
    except LannerError as refusal:
        return "" if "\n" in str(refusal) else str(refusal)
    return ""


def by_recipe(folder: Path, recipe: str) -> Dataset:
    """The folder read by the text of a recipe."""
    with TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / "recipe.toml"
        path.write_text(recipe)
        return load(folder, str(path))


def refused(name: str, *parts: str) -> Callable[[Path], bool]:
    """The file is refused with one line that names it and has these parts."""
    return lambda folder: all(part in error(folder / name) for part in (name, *parts))


def events(name: str, count: int) -> Callable[[Path], bool]:
    """All events of the file are read, and nothing is rejected."""

    def right(folder: Path) -> bool:
        dataset = load(folder / name)
        return len(dataset.interactions) == count and not dataset.rejected and not dataset.warnings

    return right


def hides(name: str, item: str) -> Callable[[Path], bool]:
    """Leave-last-out hides ``item`` of the first user."""

    def right(folder: Path) -> bool:
        dataset = load(folder / name)
        test = leave_last_out(dataset).test
        return [dataset.items.external[row] for row in test.positives[0]] == [item]

    return right


def times(name: str, *seconds: int) -> Callable[[Path], bool]:
    """The events' times in seconds after 2020-01-01, in their order."""

    def right(folder: Path) -> bool:
        found = load(folder / name).interactions.timestamp
        return found is not None and (found // 10**9 - 1_577_836_800).tolist() == list(seconds)

    return right


def in_order(folder: Path) -> bool:
    dataset = load(folder / "o_order.csv")
    return [dataset.items.external[row] for row in dataset.histories[0]] == ["z", "y", "x"]


def half(folder: Path) -> bool:
    dataset = load(folder / "half.csv")
    return len(dataset.interactions) == 360 and not dataset.rejected


def titles_of_whole_floats(folder: Path) -> bool:
    dataset = load(folder / "fl.toml")
    known = zip(dataset.items.external, dataset.item_catalogue.titles, strict=True)
    return all(title == f"Film {item}" for item, title in known) and not dataset.warnings


def unmatched_titles(folder: Path) -> bool:
    """Where titles match nothing, a warning says so with counts."""
    text = (folder / "fl.toml").read_text().replace('id="id"', 'id="title"')
    dataset = by_recipe(folder, text)
    return len(dataset.warnings) == 1 and "0 of the" in dataset.warnings[0] and "fl_items.csv" in dataset.warnings[0]


def whole_ids_beside_nan(folder: Path) -> bool:
    return load(folder / "i_fnan.parquet").users.external == ("1", "2.5", "3")


def escaped(name: str, **titles: str) -> Callable[[Path], bool]:
    """Refused with the line and the key at first; with the key, titles are as their owner wrote them."""

    def right(folder: Path) -> bool:
        plain = error(folder / name)
        if "layout.escape" not in plain or ", line " not in plain:
            return False
        dataset = by_recipe(folder, (folder / name).read_text().replace("[layout]", '[layout]\nescape = "\\\\"'))
        known = dict(zip(dataset.items.external, dataset.item_catalogue.titles, strict=True))
        return all(known.get(item[1:]) == title for item, title in titles.items())

    return right


def text_of(dataset: Dataset, item: str) -> str:
    return dataset.item_catalogue.texts[dataset.items.row(item)]


def plain_texts(folder: Path) -> bool:
    dataset = load(folder / "html.toml")
    texts = dataset.item_catalogue.texts
    marks = ("<p>", "<b>", "&amp;", "&quot;", "<br", "\0")
    return text_of(dataset, "i0") == "Great & bold" and not any(mark in text for text in texts for mark in marks)


def shop(folder: Path) -> bool:
    dataset = load(folder / "shop.csv")
    fields = ["Garden tool 4.", "A sturdy tool, number 4, for soil & roses"]
    return text_of(dataset, "sku004").split("\n") == fields and all(dataset.item_catalogue.texts)


def disliked_is_no_reason(folder: Path) -> bool:
    """Who loves horror and hates romance is recommended horror, and the other way round."""
    raw = load(folder / "n_ratings.csv")
    data = Feedback.decide(raw.interactions).apply(raw)
    model = ItemKNN().fit(random_ratio(data, test=0.1).refit)
    names = np.array(data.items.external)
    for row, user in enumerate(data.users.external):
        genre = "horror" if user.startswith("h") else "romance"
        best = model.recommend(model.dataset.user_batch(np.array([row])), 3).items[0]
        if not all(names[item].startswith(genre) for item in best if item >= 0):
            return False
    return "negative feedback" in Feedback.decide(raw.interactions).describe(raw.interactions)


def unrated(folder: Path) -> bool:
    dataset = load(folder / "norating.csv")
    weight = dataset.interactions.weight
    return len(dataset.interactions) == 360 and weight is not None and 0 < np.isnan(weight).sum() < 360


RIGHT: dict[str, Callable[[Path], bool]] = {
    "o_ms.csv": hides("o_ms.csv", "x"),
    "o_frac.csv": hides("o_frac.csv", "x"),
    "o_order.csv": in_order,
    "t_isooff.csv": times("t_isooff.csv", 28_800, 32_400, 61_200),
    "t_isooff2.csv": times("t_isooff2.csv", 36_000, 39_600, 43_200),
    "t_minute.csv": times("t_minute.csv", 36_000, 39_600, 43_200),
    "half.csv": half,
    "t_mixunits.csv": refused("t_mixunits.csv", "line 3", "line 2", "1600000000000", "milliseconds"),
    "fl.toml": titles_of_whole_floats,
    "unmatched titles": unmatched_titles,
    "i_fnan.parquet": whole_ids_beside_nan,
    "i_list.parquet": refused("i_list.parquet", "field 'item'"),
    "i_bin.parquet": refused("i_bin.parquet", "field 'user'"),
    "d_space_hdr.csv": events("d_space_hdr.csv", 15),
    "d_cr.csv": events("d_cr.csv", 15),
    "d_semi.csv": events("d_semi.csv", 15),
    "d_gz.csv.gz": events("d_gz.csv.gz", 15),
    "d_both.csv": refused("d_both.csv", "'user'", "'user_id'", "interactions.user"),
    "ev_bom.jsonl": events("ev_bom.jsonl", 1),
    "ev_nested.jsonl": refused("ev_nested.jsonl", "line 1", "field 'user'"),
    "lfm_single.tsv": refused("lfm_single.tsv", "line 4", "layout.quote = false"),
    "bx1.toml": escaped("bx1.toml", _3442410665='End"'),
    "bx3.toml": escaped("bx3.toml", _000224876X='Mine "own"', _0060973129='One 5" nail'),
    "html.toml": plain_texts,
    "shop.csv": shop,
    "n_ratings.csv": disliked_is_no_reason,
    "norating.csv": unrated,
}


def run_cases(folder: Path) -> dict[str, bool]:
    """Whether each case of ``folder`` has its right value, by name."""
    found = {}
    for name, right in RIGHT.items():
        try:
            found[name] = right(folder)
        except Exception:  # a traceback is as wrong as a wrong value
            found[name] = False
    return found


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no cases: neither LANNER_CASES nor {CASES.name} beside the project")
@pytest.mark.parametrize("name", RIGHT)
def test_case_has_its_right_value(name):
    assert RIGHT[name](CASES)


if __name__ == "__main__":
    results = run_cases(CASES)
    print(
        f"{sum(results.values())} of {len(results)} are right", *(name for name, right in results.items() if not right)
    )
