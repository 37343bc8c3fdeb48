"""The report: one self-contained HTML page, and the same in Markdown."""

from collections.abc import Sequence
from html import escape

from lanner.reproduction.claims import Claims, Finding, Results, judge
from lanner.reproduction.pictures import Picture, table_of_fusions, table_of_windows

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid #8886; padding: .35rem .6rem; text-align: left; vertical-align: top; }
.verdict { font-weight: 600; white-space: nowrap; } .small { font-size: .8rem; opacity: .8; }
figure { margin: 1.5rem 0; background: #fff; color: #000; padding: .5rem; } svg { width: 100%; height: auto; }
figcaption { font-size: .85rem; } code { font-size: .85em; overflow-wrap: anywhere; }
"""
_COLUMNS = ("claim", "the paper", "measured here", "verdict")
_TABLES = (
    (
        "Which way of joining both halves is best?",
        table_of_fusions,
        "Ranking heads whose rows are equal did not help on validation; the weighted sum of the views answers instead.",
    ),
    (
        "How fast does accuracy decay, and what does an update recover?",
        table_of_windows,
        "No update: the model before all windows. Trained anew: fitted from nothing on all events before a window.",
    ),
)
"""Tables that answer open questions: question, table, and a note on reading it."""


def findings(claims: Claims, results: Results) -> list[Finding]:
    """Every claim with its verdict, in order."""
    return [judge(one, results) for one in claims.claims]


def html(claims: Claims, results: Results, pictures: Sequence[Picture]) -> str:
    """The page."""
    found, parts = findings(claims, results), [f"<p>{escape(_introduction(claims, results))}</p>"]
    for paper, title in claims.papers.items():
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append(_html_table([_COLUMNS, *(_cells(one, claims) for one in found if one.claim.paper == paper)]))
    for question, table, note in _TABLES:
        if rows := table(results):
            parts.append(f"<h2>{escape(question)}</h2>{_html_table([[escape(cell) for cell in row] for row in rows])}")
            parts.append(f"<p>{escape(note)}</p>")
    if pictures:
        parts.append("<h2>Pictures</h2>")
    for one in pictures:
        caption = f"{escape(one.caption)} · data: <code>benchmarks/results/{escape(one.source)}.json</code>"
        parts.append(f"<figure>{one.svg}<figcaption>{caption}</figcaption></figure>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Lanner: claims and figures</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><h1>Claims of the papers, and what is measured here</h1>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def markdown(claims: Claims, results: Results) -> str:
    """The summary."""
    found, lines = findings(claims, results), ["# Claims of the papers, and what is measured here", ""]
    lines += [_introduction(claims, results), ""]
    for paper, title in claims.papers.items():
        lines += [f"## {title}", "", "| claim | protocol | the paper | measured here | verdict | file |"]
        lines += ["|---|---|---|---:|---|---|"]
        for one in found:
            if one.claim.paper == paper:
                claim = one.claim
                cells = (claim.claim, claim.protocol, claim.said, one.said, _verdict(one), f"`{claim.file}`")
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    for question, table, note in _TABLES:
        if rows := table(results):
            lines += [f"## {question}", "", *(f"| {' | '.join(row)} |" for row in rows[:1])]
            lines += ["|" + "---|" * len(rows[0]), *(f"| {' | '.join(row)} |" for row in rows[1:]), "", note, ""]
    return "\n".join(lines)


def _introduction(claims: Claims, results: Results) -> str:
    counts: dict[str, int] = {}
    for one in findings(claims, results):
        counts[one.verdict] = counts.get(one.verdict, 0) + 1
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return (
        f"{len(claims.claims)} claims: {said}. Beaten: better than the paper's number. Met: as good, or past the bar "
        "where the paper gives no number. Each figure is read from a result file, which names its commit, machine and "
        "versions."
    )


def _cells(found: Finding, claims: Claims) -> list[str]:
    claim = found.claim
    command = next(" ".join(one.command) for one in claims.experiments if one.file == claim.file)
    return [
        f"{escape(claim.claim)}<div class=small>{escape(claim.protocol)}</div>"
        f"<div class=small><code>python -m benchmarks.{escape(command)}</code></div>",
        escape(claim.said),
        escape(found.said),
        f"<span class=verdict>{escape(found.verdict)}</span>"
        + (f"<div class=small>{escape(claim.why)}</div>" if found.verdict == "not reproducible" else ""),
    ]


def _verdict(found: Finding) -> str:
    return f"{found.verdict}: {found.claim.why}" if found.verdict == "not reproducible" else found.verdict


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first row is the heading."""
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
