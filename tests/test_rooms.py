"""Which packages may import which."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lanner"
FILES = sorted(SOURCE.rglob("*.py"))

ROOMS = {
    "errors": set(),
    "types": set(),
    "settings": {"errors"},
    "files": {"errors"},
    "data": {"errors", "types", "settings"},
    "graph": {"errors", "data"},
    "inference": {"errors", "types", "data", "files"},
    "evaluation": {"errors", "data"},
    "models": {"errors", "data", "graph", "inference"},
    "training": {"errors", "files", "data", "inference", "models", "evaluation", "distributed"},
    "distributed": {"errors", "files", "settings", "models"},
    "compression": {"errors", "data", "inference", "models", "training", "evaluation"},
    "accelerators": {"errors", "files", "data", "inference"},
    "artifacts": {"errors", "files", "data", "inference", "models", "compression"},
    "encoders": {"errors", "files", "models", "artifacts"},
    "serving": {"errors", "types", "settings", "files", "data", "inference", "accelerators", "artifacts", "encoders"},
    "client": {"errors", "serving"},
    "config": {"errors", "settings", "data", "models", "training", "distributed"},
    "registry": {"errors", "config", "data", "models", "training"},
    "pipeline": {
        *(
            "errors",
            "files",
            "config",
            "registry",
            "data",
            "models",
            "training",
            "evaluation",
            "artifacts",
            "distributed",
        ),
    },
    "compress": {
        *("errors", "config", "registry", "pipeline", "data", "inference", "models", "compression", "accelerators"),
        "artifacts",
        "encoders",
    },
    "library": {
        *("errors", "files", "settings", "config", "registry", "data", "inference", "evaluation", "models"),
        *("artifacts", "encoders"),
    },
    "tune": {
        *("errors", "files", "settings", "config", "registry", "pipeline", "library", "data", "evaluation"),
    },
    "interop": {"errors", "files", "data", "library", "artifacts"},
    "federated": {"errors", "data", "inference", "models"},
    "reproduction": {"errors", "files"},
    "cli": {
        *("errors", "settings", "files", "config", "registry", "pipeline", "compress", "tune", "library", "data"),
        *(
            "evaluation",
            "compression",
            "artifacts",
            "encoders",
            "serving",
            "accelerators",
            "reproduction",
            "distributed",
        ),
    },
    "__main__": {"cli"},
    "train": {"cli"},
    "__init__": {"errors", "library"},
}
"""Rooms by name, and the rooms each may import besides itself."""

FORBIDDEN_NAMES = {"utils", "util", "common", "core", "helpers", "helper", "misc"}
FUNCTION_LINES = 60


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Modules that the import statements among ``nodes`` name; ``from a import b`` gives ``a.b``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the module is imported, types apart."""
    for node in ast.iter_child_nodes(tree):
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if lazy or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            continue
        yield node
        yield from at_import_time(node)


def violations(path: Path, source: str) -> list[str]:
    """The rooms that ``source``, standing at ``path``, imports without leave."""
    mine = room_of(path)
    imported = {name.split(".")[1] for name in imports(ast.walk(ast.parse(source))) if name.startswith("lanner.")}
    return sorted((imported & ROOMS.keys()) - ROOMS[mine] - {mine, "__init__"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_each_file_imports_only_what_its_room_may(path):
    assert room_of(path) in ROOMS, f"{room_of(path)} is no room; give it a line here and in docs/architecture.md"
    assert violations(path, path.read_text()) == []


def test_a_forbidden_import_is_seen():
    assert violations(SOURCE / "evaluation" / "x.py", "def f():\n    from lanner.models import ease") == ["models"]
    assert violations(SOURCE / "data" / "x.py", "import lanner.graph.kernel") == ["graph"]


def test_the_client_knows_the_messages_of_the_server_and_nothing_else_of_it():
    named = {
        name for path in FILES if room_of(path) == "client" for name in imports(ast.walk(ast.parse(path.read_text())))
    }
    of_serving = {name for name in named if name.startswith("lanner.serving")}
    assert all(name.startswith("lanner.serving.messages") for name in of_serving | {"lanner.serving.messages"}), (
        of_serving
    )


def test_one_file_alone_imports_transformers():
    importing = [
        path.relative_to(SOURCE).as_posix()
        for path in FILES
        if re.search(r"""(import|from) transformers|["']transformers["'.]""", path.read_text())
    ]
    assert importing == ["models/language.py"]


def test_one_file_alone_looks_for_what_a_misspelt_name_means():
    naming = [path.relative_to(SOURCE).as_posix() for path in FILES if "difflib" in path.read_text()]
    assert naming == ["errors.py"], "use lanner.errors.nearest"


def test_nothing_is_unpickled():
    unsafe = re.compile(r"\bimport pickle|pickle\.load|allow_pickle=True|weights_only=False|joblib\.load")
    assert [path.name for path in FILES if unsafe.search(path.read_text())] == []


def test_rooms_are_named_for_what_they_hold():
    names = {part.removesuffix(".py") for path in FILES for part in path.relative_to(SOURCE).parts}
    assert names & FORBIDDEN_NAMES == set()


def test_the_rooms_table_in_the_docs_is_this_one():
    rows = re.findall(r"^\| ([a-z_, ]+) \| (.+) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    documented = {room: text for names, text in rows for room in names.split(", ")}
    for room, allowed in ROOMS.items():
        if not room.startswith("__"):
            assert set(re.findall(r"[a-z_]+", documented[room])) - {"nothing", "and", "lazily"} == allowed, room


def test_no_import_goes_in_a_circle():
    known = {module_of(path) for path in FILES}
    edges = {}
    for path in FILES:
        named = imports(at_import_time(ast.parse(path.read_text())))
        edges[module_of(path)] = {name if name in known else name.rpartition(".")[0] for name in named} & known
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " → ".join((*trail, module))
        if module not in done:
            for imported in edges[module] - {module}:
                walk(imported, (*trail, module))
            done.add(module)

    for module in edges:
        walk(module, ())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_functions_stay_small(path):
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert long == []


def test_only_training_imports_torch_before_it_is_asked_to():
    """Modules of extras that are not installed are passed over.

    ``torch_runtime`` is imported where torch was chosen; ``export`` and ``encoder_files`` make files of torch's models.
    """
    rooms = {"inference", "artifacts", "encoders", "serving", "client", "library", "cli", "config", "registry"}
    rooms |= {"pipeline", "data", "evaluation"}
    of_torch = {"torch_runtime", "export", "encoder_files"}
    modules = [module_of(path) for path in FILES if room_of(path) in rooms and path.stem not in of_torch]
    program = f"""
import importlib, sys
for module in {modules}:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("lanner"):
            raise
    if "torch" in sys.modules:
        sys.exit(module)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
