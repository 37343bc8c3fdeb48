"""The report: one self-contained HTML page, and the same in Markdown."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from lanner.reproduction.claims import Claims, Finding, Results, judge, reading, results_of
from lanner.reproduction.pictures import Picture
from lanner.reproduction.tables import tables_of

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; min-width: 52rem; }
th, td { border-bottom: 1px solid #8886; padding: .35rem .6rem; text-align: left; vertical-align: top; }
.verdict { font-weight: 600; white-space: nowrap; } .small { font-size: .8rem; opacity: .8; }
figure { margin: 1.5rem 0; background: #fff; color: #000; padding: .5rem; }
svg { width: 100%; min-width: 48rem; height: auto; } figure a { color: #000; }
figcaption { font-size: .85rem; } code { font-size: .85em; }
"""
_DURATIONS = "How long does each experiment take?"
_TIMED = {True: "timed", False: "estimated"}
_COLUMNS = ("claim", "the paper", "measured here", "verdict", "command", "measured at")


def findings(claims: Claims, results: Results) -> list[Finding]:
    """Every claim with its verdict, in order.

    Raises:
        ConfigError: something in a result file has the wrong type; the message names the file.
    """
    return [judge(one, results) for one in claims.claims]


def html(claims: Claims, results: Results, pictures: Sequence[Picture]) -> str:
    """The page. Raises ``ConfigError`` as ``findings`` does."""
    found = findings(claims, results)
    parts = [f"<p>{escape(_introduction(claims, found, results))}</p>"]
    for paper, title in claims.papers.items():
        parts.append(f"<h2>{escape(title)}</h2>")
        parts.append(_html_table([_COLUMNS, *(_cells(one, claims) for one in found if one.claim.paper == paper)]))
    for table in tables_of(results):
        rows = [[escape(cell) for cell in row] for row in table.rows]
        parts.append(f"<h2>{escape(table.question)}</h2>{_html_table(rows)}<p>{escape(table.note)}</p>")
    if pictures:
        parts.append("<h2>Pictures</h2>")
    parts += [_figure(one) for one in pictures]
    durations = [[escape(cell) for cell in row] for row in _durations(claims)]
    parts.append(f"<h2>{_DURATIONS}</h2>{_html_table(durations)}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Lanner: claims and figures</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body><h1>Claims of the papers, and what is measured here</h1>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def markdown(claims: Claims, results: Results) -> str:
    """The summary. Raises ``ConfigError`` as ``findings`` does."""
    found, lines = findings(claims, results), ["# Claims of the papers, and what is measured here", ""]
    lines += [_introduction(claims, found, results), ""]
    heading = ("claim", "protocol", *_COLUMNS[1:])
    for paper, title in claims.papers.items():
        rows = [
            (
                *(one.claim.claim, one.protocol, one.paper, one.said),
                f"{one.verdict}. {one.reason}".strip(),
                f"`{_command(one, claims)}`",
                _measured_at(one),
            )
            for one in found
            if one.claim.paper == paper
        ]
        lines += [f"## {title}", "", *_markdown_table([heading, *rows]), ""]
    for table in tables_of(results):
        lines += [f"## {table.question}", "", *_markdown_table(table.rows), "", table.note, ""]
    lines += [f"## {_DURATIONS}", "", *_markdown_table(_durations(claims)), ""]
    return "\n".join(lines)


def _durations(claims: Claims) -> list[list[str]]:
    """Every experiment with its minutes, a heading first."""
    return [
        ["command", "minutes", ""],
        *(
            [f"python -m benchmarks.{' '.join(one.command)}", f"{one.minutes:.0f}", _TIMED[one.timed]]
            for one in claims.experiments
        ),
    ]


def _introduction(claims: Claims, found: Sequence[Finding], results: Results) -> str:
    counts: dict[str, int] = {}
    for one in found:
        counts[one.verdict] = counts.get(one.verdict, 0) + 1
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    short = ""
    with reading("house"):
        short = f", the short form (--quick) {results_of(results, 'house')['reproduce_quick']['minutes']:.1f} minutes"
    return (
        f"{len(claims.claims)} claims: {said}. Beaten: better than the paper's number. Met: as good, or past the bar "
        "where the paper gives no number. Undecided: the 95 % interval, or the range of the rounds, includes that "
        "number or bar. Answered: an open question without a bar. Each figure is read from a result file, which names "
        "its machine and versions. "
        f"Measuring everything takes about {claims.hours:.0f} hours on 2 cores{short}. Of {len(claims.experiments)} "
        f"experiments {sum(not one.timed for one in claims.experiments)} were never timed; their minutes are estimated."
    )


def _cells(found: Finding, claims: Claims) -> list[str]:
    return [
        f"{escape(found.claim.claim)}<div class=small>{escape(found.protocol)}</div>",
        escape(found.paper),
        escape(found.said),
        f"<span class=verdict>{escape(found.verdict)}</span><div class=small>{escape(found.reason)}</div>",
        f"<code>{escape(_command(found, claims))}</code>",
        escape(_measured_at(found)),
    ]


def _command(found: Finding, claims: Claims) -> str:
    """The command that measures a claim."""
    return "python -m benchmarks." + next(" ".join(e.command) for e in claims.experiments if e.file == found.claim.file)


def _measured_at(found: Finding) -> str:
    """The commits of the rows, shortened, and the date of the result file, which may be later than theirs."""
    commits = [one.partition("-dirty") for one in found.commits]
    shown = ", ".join(f"{commit[:7]}{dirty}" for commit, dirty, _ in commits)
    return f"{shown}; file of {found.date}" if shown else "–"


def _figure(picture: Picture) -> str:
    data = b64encode(picture.data.encode()).decode()
    link = f'<a download="{escape(picture.source)}.json" href="data:application/json;base64,{data}">data</a>'
    source = f"<code>benchmarks/results/{escape(picture.source)}.json</code>"
    caption = f"{escape(picture.caption)} · {link}, from {source}"
    return f"<figure><div class=wide>{picture.svg}</div><figcaption>{caption}</figcaption></figure>"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first row is the heading."""
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]
