"""The image: pinned, small, non-root, and with a health check."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
KNOWN = {"FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
"""ADD is not among them: it fetches and unpacks."""

Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """Each instruction and its argument, lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in whole.splitlines())]


def faults(text: str) -> list[str]:
    """What is wrong with a Dockerfile, one line each."""
    found = instructions(text)
    last = found[max(place for place, (word, _) in enumerate(found) if word == "FROM") :]
    users = [rest for word, rest in last if word == "USER"]
    after_user = [word for word, _ in last[[word for word, _ in last].index("USER") :]] if users else []
    health = [rest for word, rest in last if word == "HEALTHCHECK"]
    pip = [rest for word, rest in found if word == "RUN" and "pip install" in rest]
    rules = {
        "unknown instruction": {word for word, _ in found} <= KNOWN,
        "base without a tag": all(re.match(r"\S+:(?!latest)\S+", rest) for word, rest in found if word == "FROM"),
        "runs as root": bool(users) and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]) is not None,
        "installs after leaving root": "RUN" not in after_user,
        "no health check": any("/health/live" in rest and "--timeout=" in rest for rest in health),
        "unpinned packages": all("--constraint constraints.txt" in rest for rest in pip),
        "keeps pip's cache": all("--no-cache-dir" in rest for rest in pip),
        "pipes into a shell": not any(re.search(r"\|\s*(ba)?sh\b", rest) for _, rest in found),
        "shell form": all(rest.startswith("[") for word, rest in last if word in ("ENTRYPOINT", "CMD")),
        "names a package registry": not any("pip install" in rest and "://" in rest for _, rest in found)
        and not any(word == "ARG" and "://" in rest for word, rest in found),
        "copies everything": not any(re.match(r"\.\s", rest) for word, rest in found if word == "COPY"),
    }
    return [fault for fault, kept in rules.items() if not kept]


def test_the_rules_hold():
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(
    ("pattern", "replacement", "fault"),
    [
        (r"USER .*", "", "runs as root"),
        (r"USER .*", "USER 0:0", "runs as root"),
        (r"(USER .*)", r"\1\nRUN apt-get update", "installs after leaving root"),
        (r"python:3.11-slim$", "python", "base without a tag"),
        (r"python:3.11-slim$", "python:latest", "base without a tag"),
        (r"/health/live", "/", "no health check"),
        (r"--constraint constraints.txt", "", "unpinned packages"),
        (r"--no-cache-dir", "", "keeps pip's cache"),
        (r"(EXPOSE .*)", r"\1\nRUN curl x | sh", "pipes into a shell"),
        (r"CMD \[\"serve.*", "CMD lanner serve", "shell form"),
        (r"COPY src ./src", "COPY . .", "copies everything"),
        (r"(WORKDIR /source)", r"\1\nARG INDEX_URL=https://example.org/cpu", "names a package registry"),
        (r"(--constraint constraints.txt)", r"\1 --index-url https://example.org/cpu", "names a package registry"),
        (r"COPY src", "ADD src", "unknown instruction"),
    ],
)
def test_a_broken_rule_is_seen(pattern, replacement, fault):
    broken = re.sub(pattern, replacement, DOCKERFILE, count=1, flags=re.MULTILINE)
    assert broken != DOCKERFILE
    assert fault in faults(broken)


def test_what_is_copied_is_there_and_passes_the_ignore_file():
    let_in = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert let_in[0] == "*"
    copied = [rest for word, rest in instructions(DOCKERFILE) if word == "COPY" and "--from" not in rest]
    for source in (one for rest in copied for one in rest.split()[:-1]):
        assert (ROOT / source).exists()
        assert f"!{source}" in let_in


def test_the_extras_that_are_installed_exist():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[(.+?)\]'", DOCKERFILE)
    assert len(named) == 1
    assert set(named[0].split(",")) <= extras.keys()
    pinned = (ROOT / "constraints.txt").read_text()
    assert all(f"\n{one}==" in pinned for one in ("openvino", "tokenizers"))


def test_the_ports_and_places_agree():
    found = dict(instructions(DOCKERFILE))
    command = json.loads(found["CMD"])
    assert command[:2] == ["serve", "/bundle"]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert options["--port"] == found["EXPOSE"]
    assert f":{found['EXPOSE']}/health/live" in found["HEALTHCHECK"]
    assert options["--store"].startswith(found["WORKDIR"] + "/")
