"""The ladder: the variants of one recommender, from the full one down to popularity, in a folder beside the bundle.

A rung is a request form, a scoring network and an encoder of texts, as files that a runtime reads without torch.
``ladder.json`` carries what was measured of each rung and a SHA-256 of every file; ``ladder.sha256`` carries its own.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load, save

from lanner.artifacts.files import check_file, digest, mapped_arrays, read_checked, write_folder
from lanner.errors import BundleError, ConfigError
from lanner.models.request_form import ITEM_TABLES, RequestForm
from lanner.models.request_items import ITEM_TEXTS, ItemReader
from lanner.models.text_features import TextFeatures

FOLDER = "ladder"
INDEX = "ladder.json"
SEAL = "ladder.sha256"
SCHEMA = 5
_FORM = "form.safetensors"
_TOKENISER, _TEXTS, _WORDS, _ITEMS = "tokenizer.json", "texts.safetensors", "words.json", "items.safetensors"
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Rung:
    """One variant. files: what runtimes read, by role (``network.onnx``, ``encoder.safetensors``, …)."""

    name: str
    form: RequestForm
    files: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    """What was measured, and ``encoder_shape`` where there is an encoder; JSON can hold it."""
    encoder_digest: str = ""
    """The same for rungs whose encoder's files are the same; empty where there is none, or it is not known."""
    kept: Path | None = None
    """A folder where runtimes keep what they made of the files, for the next start; None: they keep nothing."""

    @property
    def num_bytes(self) -> int:
        """Of the form and of the encoder."""
        return self.form.num_bytes + self.encoder_bytes

    @property
    def encoder_bytes(self) -> int:
        """In the smallest format it is stored in, for a runtime loads one; 0 where there is none."""
        sizes = {role: len(data) for role, data in self.files.items()}
        openvino = sizes.get("encoder.xml", 0) + sizes.get("encoder.bin", 0)
        whole = (sizes.get(f"encoder.{kind}", 0) for kind in ("onnx", "safetensors", "codes.safetensors"))
        stored = [*whole, openvino]
        return min((size for size in stored if size), default=0)


class _Files(Mapping[str, bytes]):
    """A rung's files by role, read and checked each time they are asked for: a runtime needs few, and those once."""

    def __init__(self, read: Callable[[str], bytes], name: str, roles: Sequence[str]) -> None:
        self._read, self._name, self._roles = read, name, roles

    def __getitem__(self, role: str) -> bytes:
        if role not in self._roles:
            raise KeyError(role)
        return self._read(f"{self._name}.{role}")

    def __contains__(self, role: object) -> bool:
        return role in self._roles

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


@dataclass(frozen=True)
class TextReader:
    """How texts are read at request time: their features, the tokeniser's JSON, the longest text in tokens."""

    features: TextFeatures
    tokeniser: str
    max_tokens: int


@dataclass(frozen=True)
class TextSample:
    """Texts of the catalogue, and the vectors float32 ``[T, E]`` that the whole encoder gives them."""

    texts: tuple[str, ...]
    vectors_TE: NDArray[np.float32]


@dataclass(frozen=True)
class Ladder:
    """What ``read_ladder`` checked: figures of every rung, best first; a rung's files are read on demand."""

    path: Path
    table: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.table["rungs"])

    def rung(self, name: str, rows: NDArray[np.int64] | None = None) -> Rung:
        """Read and check one rung; its encoder's and network's files when a runtime asks for them.

        rows: of the items to hold, ascending; the form's rows are then their places. None: all.

        Raises:
            ConfigError: there is no such rung. BundleError: a file is damaged.
        """
        if name not in self.table["rungs"]:
            raise ConfigError(f"no variant '{name}' in {self.path}; it has {', '.join(self.names)}")
        facts = self.table["rungs"][name]
        form = RequestForm.from_arrays(self._arrays(f"{name}.{_FORM}", ITEM_TABLES, rows), tuple(facts["view_sizes"]))
        roles = [role for role in facts["roles"] if role != _FORM]
        sealed = self.table["sha256"]
        encoder = [f"{role} {sealed[f'{name}.{role}']}" for role in sorted(roles) if role.startswith("encoder.")]
        same = digest("\n".join(encoder).encode()) if encoder else ""
        return Rung(name, form, _Files(self._read, name, roles), facts["figures"], same, self.path)

    def verify(self) -> None:
        """Check every file; raises ``BundleError``."""
        for name in self.table["sha256"]:
            self._read(name)

    @property
    def reader(self) -> TextReader | None:
        """How texts are read; None for a recommender that reads none."""
        if "max_tokens" not in self.table:
            return None
        words = json.loads(self._read(_WORDS))
        features = TextFeatures.from_state(load(self._read(_TEXTS)), words)
        return TextReader(features, self._read(_TOKENISER).decode(), int(self.table["max_tokens"]))

    @property
    def item_reader(self) -> ItemReader | None:
        """What the text of a new item becomes; None for a recommender that reads none."""
        return self.item_reader_of(None)

    def item_reader_of(self, rows: NDArray[np.int64] | None) -> ItemReader | None:
        """The same, with the texts of some items alone, as ``rung`` has it: new items would borrow from those."""
        if "items" not in self.table:
            return None
        return ItemReader.from_arrays(self._arrays(_ITEMS, ITEM_TEXTS, rows), self.table["items"])

    def _arrays(
        self, name: str, of_items: Collection[str], rows: NDArray[np.int64] | None
    ) -> Mapping[str, NDArray[Any]]:
        """Arrays of a file, mapped; of those that have a row an item, the given ones are read, if any are."""
        expected = self.table["sha256"].get(name, "")
        if rows is None:
            return mapped_arrays(self.path / name, expected)
        check_file(self.path / name, expected)
        with safe_open(self.path / name, "numpy") as file:
            return {
                one: _taken(file.get_slice(one), rows) if one in of_items else file.get_tensor(one)
                for one in file.keys()  # noqa: SIM118 (it is no dict)
            }

    def _read(self, name: str) -> bytes:
        return read_checked(self.path / name, self.table["sha256"].get(name, ""))


def write_ladder(
    bundle: Path,
    rungs: Sequence[Rung],
    reader: TextReader | None,
    report: Mapping[str, Any],
    item_reader: ItemReader | None = None,
) -> "Ladder":
    """Write the ladder of a bundle; an older one is replaced at the very end. ``report``: what the search found.

    Raises:
        StorageError: the disk refused; what stood there still stands.
    """
    files: dict[str, bytes] = {}
    table: dict[str, Any] = {"schema": SCHEMA, "report": dict(report), "rungs": {}}
    for rung in rungs:
        arrays: dict[str, NDArray[Any]] = {n: np.ascontiguousarray(a) for n, a in rung.form.arrays().items()}
        named = {_FORM: save(arrays), **rung.files}
        files |= {f"{rung.name}.{role}": data for role, data in named.items()}
        table["rungs"][rung.name] = {
            "roles": list(named),
            "view_sizes": list(rung.form.view_sizes),
            "figures": dict(rung.figures),
        }
    if reader is not None:
        arrays, words = reader.features.state()
        files |= {_TOKENISER: reader.tokeniser.encode(), _TEXTS: save(arrays), _WORDS: json.dumps(words).encode()}
        table["max_tokens"] = reader.max_tokens
    if item_reader is not None:
        files[_ITEMS] = save({name: np.ascontiguousarray(array) for name, array in item_reader.arrays().items()})
        table["items"] = item_reader.facts
    table["sha256"] = {name: digest(data) for name, data in files.items()}
    sealed = json.dumps(table, ensure_ascii=False, indent=1).encode()
    write_folder(bundle / FOLDER, {**files, INDEX: sealed, SEAL: digest(sealed).encode()}, replaceable=INDEX)
    return read_ladder(bundle)


def read_ladder(bundle: Path) -> Ladder:
    """The ladder of a bundle, its index checked.

    Raises:
        BundleError: there is none, it is damaged, or of another schema.
    """
    folder = bundle / FOLDER
    if not (folder / INDEX).is_file():
        raise BundleError(f"{folder}: no ladder there (no {INDEX}); write one with: lanner compress {bundle}")
    try:
        seal = (folder / SEAL).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder / SEAL}: damaged or missing ({error}); run: lanner compress {bundle}") from None
    table = json.loads(read_checked(folder / INDEX, seal))
    if table.get("schema") != SCHEMA:
        raise BundleError(f"{folder}: schema {table.get('schema')}, this version reads {SCHEMA}; compress it anew")
    return Ladder(folder, table)


def _taken(stored: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Rows of an array in a file, a block of the file at a time."""
    parts, length = [stored[0:0]], stored.get_shape()[0]
    for first in range(0, length, _ROWS_AT_ONCE):
        ends = min(first + _ROWS_AT_ONCE, length)
        low, high = np.searchsorted(rows, (first, ends))
        if low < high:
            parts.append(stored[first:ends][rows[low:high] - first])
    return np.concatenate(parts)
