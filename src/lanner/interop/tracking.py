"""A bundle as a model of MLflow: ``mlflow.pyfunc``, loaded by this module. Nothing is pickled.

MLflow copies the folder of the bundle and records the name of this module; ``mlflow.pyfunc.load_model`` then calls
``_load_pyfunc`` with the copy. Source: https://mlflow.org/docs/latest/python_api/mlflow.pyfunc.html.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lanner
from lanner.artifacts.bundle import Bundle, read_bundle
from lanner.artifacts.model_card import measured_metrics
from lanner.errors import RequestError, optional_module
from lanner.library.functions import load
from lanner.library.requests import path_of

if TYPE_CHECKING:
    from lanner.library.estimator import Model

COLUMNS = ("user_id", "history", "text")
"""Of a frame to predict for: ids of users, or lists of item ids of anonymous users; with either, words."""


def log_bundle(bundle: Path | str, name: str = "lanner", registered_model_name: str | None = None) -> Any:
    """Log a bundle as a model, with its test metrics, in MLflow's active run (a new one if there is none).

    ``mlflow.pyfunc.load_model(info.model_uri).predict(frame, params={"k": 10})`` then recommends; see ``COLUMNS``. The
    model is registered if ``registered_model_name`` is given.

    Returns:
        MLflow's ``ModelInfo``.

    Raises:
        BundleError: no bundle there, or a damaged one. MissingExtraError: MLflow is not installed.
    """
    mlflow = optional_module("mlflow", "mlflow-skinny", "mlflow", "an MLflow model")
    optional_module("mlflow.pyfunc", "mlflow-skinny", "mlflow", "an MLflow model")
    stored = read_bundle(path_of(bundle, "log_bundle"))
    mlflow.log_metrics(measured_metrics(stored.manifest))
    return mlflow.pyfunc.log_model(
        name=name,
        loader_module=__name__,
        data_path=str(stored.path),
        signature=_signature(stored),
        pip_requirements=[f"lanner[{','.join(_extras(stored))}]=={lanner.__version__}"],
        registered_model_name=registered_model_name,
        metadata={"lanner": lanner.__version__, "model": stored.manifest["model"]["name"]},
    )


def _extras(bundle: Bundle) -> list[str]:
    """What answers need: pandas, and a runtime for the text encoder if the bundle has one."""
    if bundle.text_files is None:
        return ["mlflow"]
    files = bundle.variant().files
    runtime = "onnx" if "encoder.onnx" in files else "openvino" if "encoder.xml" in files else "language"
    return ["mlflow", runtime]


class Predictor:
    """The pyfunc model that MLflow calls."""

    def __init__(self, model: "Model") -> None:
        self._model = model

    def predict(self, frame: Any, params: dict[str, Any] | None = None) -> Any:
        """Recommendations for each row of ``frame``.

        Args:
            frame: a pandas frame with ``user_id`` or ``history``, and optionally ``text``.
            params: ``k`` (10), ``exclude_seen`` (true).

        Returns:
            A pandas frame: user_id (the row number if histories were given), item_id, rank, score, title.

        Raises:
            RequestError: none of these columns.
        """
        import pandas as pd

        asked = {name: frame[name].tolist() for name in COLUMNS if name in frame.columns}
        if not asked:
            raise RequestError(f"the frame needs one of the columns {', '.join(COLUMNS)}")
        given: dict[str, Any] = dict(zip(("users", "histories", "texts"), map(asked.get, COLUMNS), strict=True))
        given |= {name: value for name, value in (params or {}).items() if name in ("k", "exclude_seen")}
        found = self._model.recommend(**given, because=False)
        return pd.DataFrame({name: found[name].to_list() for name in found.columns})


def _load_pyfunc(path: str) -> Predictor:
    """Called by MLflow to load its copy of the bundle."""
    return Predictor(load(path))


def _signature(bundle: Bundle) -> Any:
    """Columns and parameters for MLflow; ids have the dataset's type."""
    types = optional_module("mlflow.types", "mlflow-skinny", "mlflow", "an MLflow model")
    schema = optional_module("mlflow.types.schema", "mlflow-skinny", "mlflow", "an MLflow model")
    models = optional_module("mlflow.models", "mlflow-skinny", "mlflow", "an MLflow model")
    user, item = (
        types.DataType.long if ids.kind == "int" else types.DataType.string
        for ids in (bundle.dataset.users, bundle.dataset.items)
    )
    columns = (user, schema.Array(item), types.DataType.string)
    inputs = [types.ColSpec(kind, name, required=False) for kind, name in zip(columns, COLUMNS, strict=True)]
    params = [
        types.ParamSpec("k", types.DataType.integer, 10),
        types.ParamSpec("exclude_seen", types.DataType.boolean, True),
    ]
    return models.ModelSignature(types.Schema(inputs), None, types.ParamSchema(params))
