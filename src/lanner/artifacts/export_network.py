"""The scoring network of a request form as an ONNX model: users' vectors in, scores of the catalogue out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lanner.artifacts.export import OPSET, ExportError, optional_module, run_onnx
from lanner.models.request_form import RequestForm, take

_LARGEST_DIFFERENCE = 1e-4
"""Of the largest score: sums in another order."""


def export_network(form: RequestForm) -> bytes:
    """``users`` float32 ``[B, D]`` to ``scores`` float32 ``[B, I]``.

    Raises:
        ExportError: the graph scores differently from the form.
        MissingExtraError: onnx or ONNX Runtime is not installed.
    """
    content: bytes = _model(form).SerializeToString()
    users_BD = np.random.default_rng(0).normal(size=(3, form.dimensions)).astype(np.float32)
    wanted, got = form.score(users_BD), run_onnx(content, {"users": users_BD})
    difference = float(np.abs(wanted - got).max()) / max(float(np.abs(wanted).max()), 1e-9)
    if not difference <= _LARGEST_DIFFERENCE:
        raise ExportError(f"the exported network differs from the form by {difference:.2g} of the largest score")
    return content


def _model(form: RequestForm) -> Any:
    onnx = optional_module("onnx")
    helper = onnx.helper
    constants: dict[str, NDArray[Any]] = {"target": take(form.target_ID).T, "bias": form.bias_I}
    nodes = [
        helper.make_node("MatMul", ["users", "target"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["scores" if form.head is None else "retrieval"]),
    ]
    if form.head is not None:
        head, sizes = form.head, form.view_sizes
        constants |= {"sizes": np.array(sizes, np.int64), "user": head.user_DH, "user_bias": head.bias_H}
        constants |= {"item": take(head.item_IH), "out": head.out_H[:, None]}
        constants |= {"middle": np.array([1], np.int64), "last": np.array([2], np.int64)}
        views = [f"view{number}" for number in range(len(sizes))]
        nodes.append(helper.make_node("Split", ["users", "sizes"], views, axis=1))
        for view, size, epsilon in zip(views, sizes, head.epsilons(len(sizes)), strict=True):
            constants[f"{view}.one"] = np.ones(size, np.float32)
            nodes.append(
                helper.make_node(
                    "LayerNormalization", [view, f"{view}.one"], [f"{view}.read"], axis=-1, epsilon=epsilon
                )
            )
        nodes += [
            helper.make_node("Concat", [f"{view}.read" for view in views], ["read"], axis=1),
            helper.make_node("MatMul", ["read", "user"], ["hidden"]),
            helper.make_node("Add", ["hidden", "user_bias"], ["user_half"]),
            helper.make_node("Unsqueeze", ["user_half", "middle"], ["for_each_item"]),
            helper.make_node("Add", ["for_each_item", "item"], ["pairs"]),
            helper.make_node("Relu", ["pairs"], ["active"]),
            helper.make_node("MatMul", ["active", "out"], ["said"]),
            helper.make_node("Squeeze", ["said", "last"], ["correction"]),
            helper.make_node("Add", ["retrieval", "correction"], ["scores"]),
        ]
    number = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info("users", number, ["users", form.dimensions])],
        [helper.make_tensor_value_info("scores", number, ["users", form.num_items])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
