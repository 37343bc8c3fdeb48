"""The default runtime for encoding texts."""

import pytest

from lanner.encoders import preferred


@pytest.mark.parametrize(
    ("flags", "first"),
    [("avx2 avx512_vnni", "openvino"), ("avx2 avx_vnni", "openvino"), ("sse avx2", "onnxruntime")],
)
def test_openvino_comes_first_where_the_processor_has_products_of_int8(tmp_path, flags, first):
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert preferred(tmp_path / "cpuinfo")[0] == first


def test_onnx_runtime_comes_first_where_nothing_is_known(tmp_path):
    assert preferred(tmp_path / "none") == ("onnxruntime", "openvino", "torch")
