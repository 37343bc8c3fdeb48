"""Which runtime is taken where none is named."""

import pytest

from lanner.serving.model import preferred


@pytest.mark.parametrize(
    ("flags", "first"),
    [
        ("avx2 avx512_vnni", "openvino"),
        ("avx2 avx_vnni", "openvino"),
        ("sse avx2", "numba"),
        ("sse avx", "onnxruntime"),
    ],
)
def test_what_the_processor_has_says_which_comes_first(tmp_path, flags, first):
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert preferred(tmp_path / "cpuinfo")[0] == first


def test_where_nobody_tells_onnx_runtime_comes_first(tmp_path):
    assert preferred(tmp_path / "none") == ("onnxruntime", "openvino", "torch")
