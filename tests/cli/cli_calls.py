"""Helpers shared by the command tests."""

import re
from pathlib import Path

EVENTS = [(f"u{user}", f"i{item}") for user in range(12) for item in range(8) if (user * 3 + item * 5) % 7 < 4]


def csv(path: Path, rows, header: str = "user,item") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def complaint(answer: tuple[int, str, str]) -> str:
    """The one line that a refused command leaves on stderr; progress stands before it."""
    code, out, err = answer
    lines = [line for line in err.splitlines() if not re.match(r" +[\d.]+ s  ", line)]
    assert (code, out, len(lines)) == (2, "", 1), answer
    return lines[0]
