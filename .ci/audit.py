"""Ask the advisory service about every pinned version: ``python .ci/audit.py [PROGRAM]``, by ``make audit``.

Exit code 1 where a version has a known vulnerability, or pip-audit itself fails. Where the service cannot be reached,
or knows none of the versions (a mirror without advisories), one line says that nothing was audited, and the code is 0.
"""

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"
_UNREACHED = ("Could not connect", "ConnectionError", "HTTPError", "ProxyError", "Timeout", "SSLError")
"""Parts of what pip-audit writes then: it has no exit code of its own for it."""


def main(program: str, pins: Path = PINS) -> int:
    """The exit code, after one line a vulnerability and one line in all."""
    options = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    ended = subprocess.run([program, "--requirement", str(pins), *options], capture_output=True, text=True)
    try:
        asked = json.loads(ended.stdout)["dependencies"]
    except ValueError:
        return _failed(ended.stderr.strip(), pins)
    answered = [one for one in asked if "vulns" in one]
    found = [(one, flaw) for one in answered for flaw in one["vulns"]]
    for one, flaw in found:
        better = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {flaw['id']}; fixed in {better}")
    if not answered:
        print(f"audit: the advisory service knows none of {len(asked)} versions; nothing was audited")
    else:
        print(f"audit: {len(found)} known vulnerabilities in {len(answered)} of {len(asked)} versions")
    return int(bool(found))


def _failed(said: str, pins: Path) -> int:
    if any(one in said for one in _UNREACHED):
        print("audit: the advisory service cannot be reached; nothing was audited")
        return 0
    print(f"audit: pip-audit cannot read {pins.name}: {said.splitlines()[-1] if said else 'it said nothing'}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["pip-audit"]))
