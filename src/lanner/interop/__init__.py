"""Datasets to and from other libraries, and bundles in MLflow. Other libraries are imported on use."""

from lanner.interop.pyg import from_pyg, to_pyg
from lanner.interop.recbole import write_recbole
from lanner.interop.rectools import from_rectools, to_rectools
from lanner.interop.tracking import log_bundle
from lanner.library.export import export_to_qdrant

__all__ = ["export_to_qdrant", "from_pyg", "from_rectools", "log_bundle", "to_pyg", "to_rectools", "write_recbole"]
