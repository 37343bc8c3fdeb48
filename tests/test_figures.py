"""Figures on pages are generated from result files; pages that report one-off measurements say so at their head."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ONE_OFF = (ROOT / "docs" / "log.md", ROOT / "docs" / "decisions" / "README.md")
"""Their figures, and those of the decisions that the second one lists, are typed by hand."""
GENERATED = tuple(ROOT / "docs" / f"{name}.md" for name in ("commands", "settings", "recipes"))
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"))
    if page not in (*ONE_OFF, *GENERATED) and page.parent.name != "decisions"
)
FIGURE = re.compile(
    r"(?<![\w.,/-])(?:\d[\d,]*(?:\.\d+)?|\.\d+)\s?(?:%|×|(?:ms|µs|MHz|[kKMG]i?B|s|seconds?|minutes?|hours?|times)\b)"
    r"|(?<![\w.-])\d*\.\d{2,}\b"
)
NOT_MEASURED = {
    "README.md": {"3.11"},
    "docs/accelerator.md": {"90 MHz", "75 MHz", "5 s", "3,706 ×"},
    "docs/architecture.md": {"1 %"},
    "docs/distributed.md": {"7 %", "256 ×"},
    "docs/federated.md": {"1.42", "0.21", "0.139"},
    "docs/interop.md": {"0.19"},
    "docs/quickstart.md": {"3.11"},
    "docs/tour.md": {"95 %"},
}
"""What looks like a measurement and is a version, a target, an assumption, a size or a rule of the code."""


def typed(text):
    """The figures in prose: outside of generated sections, code and links."""
    for pattern in (r"<!-- results: begin.*?results: end -->", r"^```.*?^```", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(pattern, "", text, flags=re.DOTALL | re.MULTILINE)
    return set(FIGURE.findall(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_measurement_is_typed_by_hand(page):
    allowed = NOT_MEASURED.get(str(page.relative_to(ROOT)), set())
    assert typed(page.read_text()) == allowed, "generate it in benchmarks/readme.py from a result file"


@pytest.mark.parametrize(
    "measured", ["takes 3.2 ms", "NDCG@10 .3728", "1.52 × the speed", "12 % lower", "0.341", "849 times", "542 MiB"]
)
def test_a_measurement_in_prose_is_found(measured):
    assert typed(f"It {measured} here.")
    assert not typed(f"`{measured}`\n```text\n{measured}\n```\n")


@pytest.mark.parametrize("page", ONE_OFF, ids=lambda page: page.name)
def test_a_page_of_one_off_measurements_says_so_at_its_head(page):
    head = " ".join(page.read_text().split("\n\n")[1].split())
    assert "one-off measurements" in head.lower()
    assert "benchmarks/results" in head
