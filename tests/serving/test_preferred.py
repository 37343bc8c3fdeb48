"""Which runtime is taken where none is named."""

import pytest

from lanner.serving.model import preferred


@pytest.mark.parametrize(
    ("flags", "first"),
    [
        ("avx2 avx512_vnni", "openvino"),
        ("avx2 avx_vnni", "openvino"),
        ("sse avx2", "onnxruntime"),
    ],
)
def test_openvino_comes_first_where_the_processor_has_products_of_int8(tmp_path, flags, first):
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert preferred(tmp_path / "cpuinfo")[0] == first


def test_where_nobody_tells_onnx_runtime_comes_first(tmp_path):
    assert preferred(tmp_path / "none") == ("onnxruntime", "openvino", "torch")


@pytest.mark.parametrize(("flags", "last"), [("sse avx2", ["numba", "torch"]), ("sse avx", ["openvino", "torch"])])
def test_own_products_come_before_torch_where_the_processor_can(tmp_path, flags, last):
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert list(preferred(tmp_path / "cpuinfo"))[-2:] == last
