"""Maximum-inner-product retrieval: the k best items of a user vector, exactly or nearly so, behind one interface."""

from lanner.serving.retrieval.building import BEST
from lanner.serving.retrieval.files import load_index
from lanner.serving.retrieval.index import Index, build_index, scan_of_codes, tune
from lanner.serving.retrieval.plan import Measured, RetrievalConfig
from lanner.serving.retrieval.row_set import RowSet

__all__ = [
    "BEST",
    "Index",
    "Measured",
    "RetrievalConfig",
    "RowSet",
    "build_index",
    "load_index",
    "scan_of_codes",
    "tune",
]
