"""Hook of MkDocs: what pages link to outside of ``docs/`` becomes a page or a file of the site.

So links that work in the repository work on the site. Sources become pages with their text; folders, pages with a line
a module; all else is copied. What is not there is left to MkDocs, which calls it a broken link.
"""

import ast
import re
from functools import partial
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"(?<=\]\()\.\./[^)#\s]+")
_HIDDEN = "---\nsearch: {exclude: true}\n---\n\n"


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to."""
    for page in list(files.documentation_pages()):
        for link in _LINK.findall(page.content_string):
            target = _target(link, page.src_uri)
            if target is not None and files.get_file_from_path(_uri(target)) is None:
                files.append(_file(target, config))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn links to the outside into links to what was added."""
    return _LINK.sub(partial(_relinked, source=page.file.src_uri), markdown)


def _relinked(link: re.Match[str], source: str) -> str:
    target = _target(link[0], source)
    return link[0] if target is None else relpath(_uri(target), Path(source).parent.as_posix())


def _target(link: str, source: str) -> Path | None:
    """The file or folder outside of ``docs/`` that a link of the page ``source`` leads to, if it is one."""
    path = normpath(f"docs/{Path(source).parent.as_posix()}/{link}")
    return Path(path) if not path.startswith(("docs/", "..")) and (ROOT / path).exists() else None


def _uri(target: Path) -> str:
    becomes_page = (ROOT / target).is_dir() or target.suffix == ".py"
    return f"source/{target.as_posix()}{'.md' if becomes_page else ''}"


def _file(target: Path, config: Any) -> File:
    path = ROOT / target
    if path.is_dir():
        rows = [f"| `{one.relative_to(path)}` | {_summary(one)} |" for one in sorted(path.rglob("*.py"))]
        content = f"{_HIDDEN}# {target}\n\n| module | what it is |\n|---|---|\n" + "\n".join(rows)
    elif target.suffix == ".py":
        content = f"{_HIDDEN}# {target.name}\n\n`````python\n{path.read_text()}`````\n"
    else:
        content = path.read_text()
    return File.generated(config, _uri(target), content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def _summary(module: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n")[0].replace("|", "\\|")
