"""GELU that an exporter spelled out in five operators becomes one, once, when a bundle is made.

ONNX Runtime fuses batch norms, constants and activations at every load by itself, but not this
spelling of PyTorch's exporter, `x * (0.5 * (1 + erf(x / sqrt 2)))`, whose operators also make it
leave its fast layout around every layer. The graph is read and written by protobuf, which ONNX
Runtime brings along; fields that are not named here pass through unread.
"""

from __future__ import annotations

import functools
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

_MS = "com.microsoft"

#: Largest difference of any output that is taken for rounding.
_TOLERANCE = 1e-4

#: Message -> field -> (number, kind). Source: onnx/onnx.proto3 of ONNX 1.18.
_FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    # All of these: fields not named are written last, and OpenVINO wants them in order.
    "Model": {
        "ir_version": (1, "int"),
        "producer_name": (2, "text"),
        "producer_version": (3, "text"),
        "domain": (4, "text"),
        "model_version": (5, "int"),
        "doc_string": (6, "text"),
        "graph": (7, "Graph"),
        "opset_import": (8, "*Opset"),
    },
    "Opset": {"domain": (1, "text"), "version": (2, "int")},
    "Graph": {"node": (1, "*Node"), "initializer": (5, "*Tensor"), "output": (12, "*Value")},
    "Node": {
        "input": (1, "*text"),
        "output": (2, "*text"),
        "name": (3, "text"),
        "op_type": (4, "text"),
        "domain": (7, "text"),
    },
    "Tensor": {
        "data_type": (2, "int"),
        "name": (8, "text"),
        "raw_data": (9, "bytes"),
    },
    "Value": {"name": (1, "text")},
}


def fuse_gelu(path: Path) -> int:
    """Rewrite an ONNX file in place; returns how many were fused, 0 where it stays as it is.

    It stays as it is, too, where the fused graph does not run here or scores otherwise.
    """
    model = _model_class()()
    before = path.read_bytes()
    try:
        model.ParseFromString(before)
    except Exception:  # noqa: BLE001 - whatever it is, the self-test of the bundle will say
        return 0
    count = _fuse(model)
    if not count:
        return 0
    fused = path.with_suffix(".fused")
    fused.write_bytes(model.SerializeToString())
    if not _agree(path, fused):
        fused.unlink()
        return 0
    fused.replace(path)
    return count


def _fuse(model: Any) -> int:
    graph = model.graph
    constants = {
        tensor.name: struct.unpack("<f", tensor.raw_data)[0]
        for tensor in graph.initializer
        if tensor.data_type == 1 and len(tensor.raw_data) == 4
    }
    users = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    shown = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    dead: set[str] = set()
    count = 0
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        nodes = _spelled_out(erf, makers, users, constants)
        if nodes is None or shown & {node.output[0] for node in nodes[:-1]}:
            continue
        last, x = nodes[-1], nodes[0].input[0]
        last.op_type, last.domain = "Gelu", _MS
        del last.input[:]
        last.input.append(x)
        dead |= {node.output[0] for node in nodes[:-1]}
        count += 1
    kept = [node for node in graph.node if node.output[0] not in dead]
    del graph.node[:]
    graph.node.extend(kept)
    if _MS not in {opset.domain for opset in model.opset_import}:
        model.opset_import.add(domain=_MS, version=1)
    return count


def _spelled_out(
    erf: Any, makers: dict[str, Any], users: dict[str, list[Any]], constants: dict[str, float]
) -> list[Any] | None:
    """The five nodes, if `erf` stands in the middle of them: Div, Erf, Add, Mul, Mul."""
    div = makers.get(erf.input[0])
    if div is None or not _is(div, "Div", 2**0.5, constants):
        return None
    chain = [div]
    for kind, constant in (("Erf", None), ("Add", 1.0), ("Mul", 0.5), ("Mul", None)):
        following = users[chain[-1].output[0]]
        if len(following) != 1 or not _is(following[0], kind, constant, constants):
            return None
        chain.append(following[0])
    return chain if div.input[0] in chain[-1].input else None


def _is(node: Any, kind: str, constant: float | None, constants: dict[str, float]) -> bool:
    if node.op_type != kind or node.domain:
        return False
    values = [constants[name] for name in node.input if name in constants]
    return constant is None or any(abs(value - constant) < 1e-6 for value in values)


def _agree(first: Path, second: Path) -> bool:
    import onnxruntime

    outputs = []
    for path in (first, second):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            entry = session.get_inputs()[0]
            shape = [size if isinstance(size, int) else 1 for size in entry.shape]
            levels = np.arange(np.prod(shape)).reshape(shape) * 37 % 256
            dtype = np.uint8 if entry.type == "tensor(uint8)" else np.float32
            outputs.append(session.run(None, {entry.name: levels.astype(dtype)}))
        except Exception:  # noqa: BLE001 - ONNX Runtime raises a dozen unrelated classes
            return False
    return all(
        one.shape == other.shape and np.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE)
        for one, other in zip(*outputs, strict=True)
    )


@functools.cache
def _model_class() -> Any:
    """The part of ONNX's `ModelProto` that is needed, as a protobuf message."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    types = {"text": kinds.TYPE_STRING, "bytes": kinds.TYPE_BYTES, "int": kinds.TYPE_INT64}
    file = descriptor_pb2.FileDescriptorProto(name="onnx-part", package="part", syntax="proto2")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            many, kind = kind.startswith("*"), kind.removeprefix("*")
            entry = message.field.add(name=field, number=number)
            entry.label = kinds.LABEL_REPEATED if many else kinds.LABEL_OPTIONAL
            if kind in types:
                entry.type = types[kind]
            else:
                entry.type, entry.type_name = kinds.TYPE_MESSAGE, f".part.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("part.Model"))
