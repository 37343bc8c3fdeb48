"""`make test` installs every package that a test skips without: a test that CI skips tests nothing."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT_OF = {
    "faiss": "faiss-cpu",
    "mkdocs": "mkdocs-material",
    "mlflow": "mlflow-skinny",
    "opentelemetry": "opentelemetry-sdk",
    "yaml": "pyyaml",
}
"""Projects whose packages have another name."""
SKIPS = re.compile(r"""(?:importorskip|find_spec)\(\s*["'](\w+)""")


def skipped_without() -> dict[str, set[str]]:
    """The packages that tests skip without, and the files with these tests."""
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for package in SKIPS.findall(file.read_text(encoding="utf-8")):
            found.setdefault(package, set()).add(file.name)
    return found


def project_of(package: str) -> str:
    return PROJECT_OF.get(package, package).replace("_", "-").lower()


def test_ci_installs_what_tests_skip_without():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (listed,) = re.findall(r"^TEST_EXTRAS := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    chosen = listed.split(",")
    assert set(chosen) <= extras.keys()
    installed = {re.split(r"[\[>=<]", one)[0].replace("_", "-").lower() for name in chosen for one in extras[name]}
    missing = {package: files for package, files in skipped_without().items() if project_of(package) not in installed}
    # RecTools needs a Python of its own, with an older NumPy.
    assert missing.keys() <= {"rectools"}, missing
