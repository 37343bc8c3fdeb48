"""The variant that runs on an accelerator, and the accelerator for it; see docs/accelerator.md."""

from typing import TYPE_CHECKING

import numpy as np

from lanner.accelerators.contract import VARIANTS, contract_of
from lanner.artifacts.bundle import Bundle
from lanner.errors import BundleError, optional_module
from lanner.inference.ranker import Asked

if TYPE_CHECKING:
    from lanner.accelerators.backend import Backend

ACCELERATED = "accelerated"
"""Name of the variant in responses, settings and metrics."""


def source_of(bundle: Bundle) -> str:
    """Name of the variant whose integer form runs on the accelerator.

    Raises:
        BundleError: no variant depends on the user.
    """
    found = next((one for one in VARIANTS if one in bundle.variants), None)
    if found is None:
        raise BundleError(f"{bundle.path}: has no variant that depends on the user; popularity needs no accelerator")
    return found


def accelerator_of(bundle: Bundle, place: str, mhz: float | None = None) -> "Backend":
    """Open the accelerator for a bundle. place: see ``backend.open_backend``. mhz: as there.

    Raises:
        ConfigError: an unknown place, or a variant without an integer form. As ``source_of`` and ``contract_of``.
        MissingExtraError: the extra ``fpga`` is not installed.
    """
    optional_module("amaranth", "amaranth", "fpga", "an accelerator")
    from lanner.accelerators.backend import open_backend

    variant = bundle.variant(source_of(bundle))
    return open_backend(place, contract_of(variant.model, bundle.dataset, variant.figures.get("contract")), mhz)


def asked_of(bundle: Bundle) -> list[Asked]:
    """Golden requests of a bundle as accelerator inputs."""
    golden, items = bundle.golden, bundle.dataset.items
    histories = [np.unique(items.rows(one["history"])).astype(np.int64) for one in golden["requests"]]
    return [Asked(rows, np.full(len(rows), 1 / len(rows), np.float32), rows, int(golden["k"])) for rows in histories]
