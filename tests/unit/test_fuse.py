"""What an exporter spelled out becomes one operator, and nothing else changes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from worker.model.fuse import fuse_gelu


def spelled_out(*, half=0.5, show_middle=False):
    """X * (half * (1 + erf(x / sqrt 2))), twice, as PyTorch's exporter writes it."""
    nodes, value = [], "x"
    for turn in ("a", "b"):
        nodes += [
            helper.make_node("Div", [value, "root"], [turn + "1"]),
            helper.make_node("Erf", [turn + "1"], [turn + "2"]),
            helper.make_node("Add", [turn + "2", "one"], [turn + "3"]),
            helper.make_node("Mul", ["half", turn + "3"], [turn + "4"]),
            helper.make_node("Mul", [value, turn + "4"], [turn]),
        ]
        value = turn
    shapes = [None, 3, 4, 4]
    constants = {"root": 2**0.5, "one": 1.0, "half": half}
    outputs = ["b", "a4"] if show_middle else ["b"]
    graph = helper.make_graph(
        nodes,
        "gelu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes) for name in outputs],
        [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10, producer_name="test")
    helper.set_model_props(model, {"kept": "yes"})
    return model


@pytest.fixture
def write(tmp_path):
    def write(model):
        path = tmp_path / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def kinds(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def scores(path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_five_operators_become_one_and_say_the_same(write):
    """Both are fused; the scores and what the file says besides stay."""
    path = write(spelled_out())
    x = np.linspace(-6, 6, 96, dtype=np.float32).reshape(2, 3, 4, 4)
    before = scores(path, x)
    assert fuse_gelu(path) == 2
    assert kinds(path) == ["Gelu", "Gelu"]
    np.testing.assert_allclose(scores(path, x), before, atol=1e-6)
    model = onnx.load(path)
    assert (model.producer_name, model.metadata_props[0].value) == ("test", "yes")
    assert fuse_gelu(path) == 0


def test_another_function_is_left_alone(write):
    """With another factor it is no GELU: not one byte changes."""
    path = write(spelled_out(half=0.25))
    before = path.read_bytes()
    assert fuse_gelu(path) == 0
    assert path.read_bytes() == before


def test_what_the_graph_shows_is_not_fused_away(write):
    """An intermediate result that is an output of the graph stays; the other GELU is fused."""
    path = write(spelled_out(show_middle=True))
    assert fuse_gelu(path) == 1
    assert kinds(path) == ["Div", "Erf", "Add", "Mul", "Mul", "Gelu"]


def test_what_is_no_graph_is_left_alone(tmp_path):
    """The bundle's self-test says what is wrong with it."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph at all")
    assert fuse_gelu(path) == 0
    assert path.read_bytes() == b"no graph at all"
