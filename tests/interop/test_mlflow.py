"""A bundle in MLflow: logged, registered, loaded, queried."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

import lanner
from lanner.artifacts.bundle import CHECKSUM, MANIFEST
from lanner.files import digest
from lanner.interop import log_bundle
from lanner.interop.tracking import _extras

mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def logged(knn, tmp_path_factory):
    """(the folder of MLflow's files, what log_bundle gave). Files, for a database takes MLflow many seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield folder, log_in(folder, knn)


def log_in(folder, knn):
    mlflow.set_tracking_uri((folder / "runs").as_uri())
    mlflow.set_registry_uri((folder / "registry").as_uri())
    with mlflow.start_run():
        info = log_bundle(with_metrics(knn.save(folder / "bundle")), registered_model_name="shop")
    (folder / "bundle").rename(folder / "gone")  # MLflow has a copy
    return info


def with_metrics(bundle):
    """The bundle as ``lanner train`` writes it, with test metrics in its manifest."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["metrics"] = {"metrics": {"ndcg_at_10": 0.25, "recall_at_10": 0.5}}
    content = json.dumps(manifest).encode()
    (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_text(digest(content))
    return bundle


def test_a_registered_bundle_recommends_as_the_model_does(logged, knn):
    loaded = mlflow.pyfunc.load_model("models:/shop/1")
    users = knn.dataset.user_ids[:5]
    found = loaded.predict(pd.DataFrame({"user_id": users}), params={"k": 3})
    expected = knn.recommend(users, k=3, because=False)
    assert list(found.columns) == ["user_id", "item_id", "rank", "score", "title"]
    for name in ("user_id", "item_id", "rank"):
        assert found[name].to_list() == expected[name].to_list()
    seen = loaded.predict(pd.DataFrame({"user_id": users}), params={"k": 11, "exclude_seen": False})
    assert len(seen) == 55


def test_an_anonymous_history_is_answered(logged, knn):
    loaded = mlflow.pyfunc.load_model(logged[1].model_uri)
    found = loaded.predict(pd.DataFrame({"history": [[100, 102], [101]]}))
    expected = knn.recommend(histories=[[100, 102], [101]], because=False)
    assert found["item_id"].to_list() == expected["item_id"].to_list()


def test_a_frame_without_users_is_refused(logged):
    loaded = mlflow.pyfunc.load_model(logged[1].model_uri)
    with pytest.raises(lanner.RequestError, match="one of the columns user_id, history, text"):
        loaded._model_impl.predict(pd.DataFrame({"user": [1]}))


def test_the_run_has_the_metrics_and_the_model_names_its_extras(logged):
    run = mlflow.get_run(logged[1].run_id)
    assert run.data.metrics == pytest.approx({"ndcg_at_10": 0.25, "recall_at_10": 0.5})
    requirements = [path.read_text() for path in logged[0].rglob("requirements.txt")]
    assert requirements
    assert all(f"lanner[mlflow]=={lanner.__version__}" in one.splitlines() for one in requirements)


@pytest.mark.parametrize(
    ("texts", "files", "expected"),
    [
        (None, {"encoder.onnx": b""}, ["mlflow"]),
        ("tokenizer", {"encoder.safetensors": b"", "encoder.onnx": b"", "encoder.xml": b""}, ["mlflow", "onnx"]),
        ("tokenizer", {"encoder.xml": b""}, ["mlflow", "openvino"]),
        ("tokenizer", {"encoder.safetensors": b""}, ["mlflow", "language"]),
    ],
)
def test_the_extras_are_those_that_the_encoder_needs(texts, files, expected):
    bundle = SimpleNamespace(text_files=texts, variant=lambda: SimpleNamespace(files=files))
    assert _extras(bundle) == expected


def test_nothing_of_it_is_pickled(logged):
    stored = [path.suffix for path in logged[0].rglob("*") if path.is_file()]
    assert ".safetensors" in stored
    assert not {".pkl", ".pickle", ".joblib"} & set(stored)


def test_mlflow_is_imported_when_it_is_asked_for():
    heavy = {"mlflow", "torch", "torch_geometric", "pandas"}
    program = f"import sys, lanner.interop; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_without_mlflow_the_install_line_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(lanner.MissingExtraError, match=r"pip install 'lanner\[mlflow\]'"):
        log_bundle(tmp_path)
