"""Models as OpenVINO compiled them, kept in a cache folder and mapped: only the first start compiles them.

A folder holds what ``export_model`` gave and its SHA-256; every byte is checked before any is used. What cannot be used
is compiled anew and written over, as what another processor or version compiled is never looked at.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lanner.errors import StorageError
from lanner.files import digest, write_folder

_BLOB, _SEAL = "model.blob", "model.sha256"
_log = logging.getLogger(__name__)


def cached_or_compiled(
    cache: Path, source: str, core: Any, options: Mapping[str, Any], compiled: Callable[[], Any]
) -> tuple[Any, Any]:
    """(the compiled model, what must live as long as it does).

    cache: where folders of compiled models lie. source: a digest of the files from which ``compiled`` makes it.
    """
    folder = cache / f"openvino-{_maker(source, core, options)}"
    found = _read(folder, core, options)
    if found is not None:
        return found
    made = compiled()
    blob = made.export_model().getvalue()
    try:
        write_folder(folder, {_BLOB: blob, _SEAL: digest(blob).encode()}, replaceable=_BLOB)
    except StorageError as error:
        _log.warning("%s; the model is compiled anew at every start", error)
    return made, None


def _maker(source: str, core: Any, options: Mapping[str, Any]) -> str:
    """The same where a compiled model may be used: of the same files, by the same version, on the same processor."""
    import openvino

    facts = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    return digest(json.dumps([source, openvino.get_version(), *facts, options]).encode())[:12]


def _read(folder: Path, core: Any, options: Mapping[str, Any]) -> tuple[Any, Any] | None:
    import openvino

    try:
        seal = (folder / _SEAL).read_text(encoding="ascii")
        # OpenVINO takes no memory that may not be written; it writes none, so that processes share its pages.
        blob = np.memmap(folder / _BLOB, np.uint8, "c")
    except (OSError, ValueError):
        return None
    if hashlib.sha256(blob.data).hexdigest() != seal:
        _log.warning("%s: damaged; the model is compiled anew", folder / _BLOB)
        return None
    try:
        return core.import_model(openvino.Tensor(blob, shared_memory=True), "CPU", dict(options)), blob
    except RuntimeError as error:
        _log.warning("%s: OpenVINO cannot read it (%s); the model is compiled anew", folder, str(error).splitlines()[0])
        return None
