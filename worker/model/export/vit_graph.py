"""A ViT classifier's weights to the fastest ONNX graph that this project knows, without PyTorch.

Operators of ONNX Runtime that do several steps at once (MultiHeadAttention, BiasGelu), the input's
normalisation folded into the patch embedding, and the last block computed for the class token
alone, which is exact because no other token reaches the head. The int8 graph has the same shape
with its large products, attention's included, in int8; `docs/performance.md` tells what each gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Float32Array = npt.NDArray[np.float32]
Precision = Literal["fp32", "int8"]

INPUT = "pixels"
OUTPUT = "logits"

#: IR version 10 is read by ONNX Runtime 1.18 and later.
OPSET, IR_VERSION = 20, 10

#: Largest int8 weight: 63 keeps two added products within 16 bits, as x86 without VNNI needs.
FULL_RANGE, REDUCED_RANGE = 127, 63

_MS = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Vit:
    """A plain ViT: class token, learned positions, pre-norm blocks, a linear head.

    Attributes:
        image_px: side of the square input.
        patch_px: side of a patch.
        heads: attention heads.
        epsilon: of every layer normalisation.
        weights: under timm's names, whatever the checkpoint's own were.
    """

    image_px: int
    patch_px: int
    heads: int
    epsilon: float
    weights: Mapping[str, Float32Array]

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return 1 + max(int(name.split(".")[1]) for name in self.weights if name[:7] == "blocks.")

    @property
    def width(self) -> int:
        """Length of a token."""
        return len(self.weights["norm.weight"])


def build_vit(
    vit: Vit,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    precision: Precision = "fp32",
    int8_range: int = FULL_RANGE,
    portable: bool = False,
) -> onnx.ModelProto:
    """Build the graph: (N, image_px, image_px, 3) uint8 RGB to (N, classes) logits.

    The int8 graph takes the range of its activations from each run, so that no calibration pictures
    are needed; pictures of one run share it, so it must be run with N = 1.

    Args:
        vit: architecture and weights.
        mean: per channel, on the 0..1 scale.
        std: per channel, on the 0..1 scale.
        precision: of the large products.
        int8_range: largest quantised weight, key and value.
        portable: use ONNX's own operators only, for other runtimes and execution providers.

    Raises:
        ValueError: int8 was asked for in portable form.

    Returns:
        A model that ONNX's own checker cannot judge in full, as it has ONNX Runtime's operators.
    """
    if portable and precision == "int8":
        raise ValueError("the int8 graph needs ONNX Runtime's operators")
    kind = _Int8Graph if precision == "int8" else _PortableGraph if portable else _Graph
    graph = kind(vit, int8_range)
    tokens = graph.embed(mean, std)
    for index in range(vit.depth - 1):
        tokens = graph.block(tokens, index)
    return graph.model(graph.last_block(tokens, vit.depth - 1))


class _Graph:
    """Collects nodes and constants; every method appends and returns the name of its result."""

    def __init__(self, vit: Vit, int8_range: int) -> None:
        self.vit = vit
        self.int8_range = int8_range
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def embed(self, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
        """Cut the picture into patches, project them, put the class token in front."""
        vit, patch = self.vit, self.vit.patch_px
        side = vit.image_px // patch
        kernel, bias = _fold_normalisation(vit, np.asarray(mean), np.asarray(std))
        positions = vit.weights["pos_embed"].reshape(-1, vit.width).astype(np.float64)
        first = vit.weights["cls_token"].reshape(-1) + positions[0]
        cut = self._constant("cut", np.array([-1, side, patch, side, patch * 3]))
        flat = self._constant("flat", np.array([0, side * side, patch * patch * 3]))
        grid = self._op("Transpose", self._op("Reshape", INPUT, cut), perm=[0, 1, 3, 2, 4])
        pixels = self._op("Reshape", grid, flat)
        # With scale 1 this is a Cast, four times as fast as ONNX Runtime's Cast.
        one = self._constant("one", np.array(1, np.float32))
        pixels = self._op("DequantizeLinear", pixels, one)
        patches = self._op("MatMul", pixels, self._constant("patch.weight", kernel))
        later = (positions[1:] + bias)[None].astype(np.float32)
        patches = self._op("Add", patches, self._constant("patch.positions", later))
        count = self._op("Shape", INPUT, start=0, end=1)
        shape = self._op("Concat", count, self._constant("ones", np.array([1, 1])), axis=0)
        token = self._constant("class_token", first.reshape(1, 1, -1).astype(np.float32))
        return self._op("Concat", self._op("Expand", token, shape), patches, axis=1)

    def block(self, tokens: str, index: int) -> str:
        """One transformer block over all tokens."""
        name = f"blocks.{index}."
        qkv = self._linear(self._norm(tokens, name + "norm1"), *self._weights(name + "attn.qkv"))
        attended = self._attend(*self._split(qkv, 3))
        projected = self._linear(attended, *self._weights(name + "attn.proj"))
        tokens = self._op("Add", tokens, projected)
        hidden = self._linear(self._norm(tokens, name + "norm2"), *self._weights(name + "mlp.fc1"))
        return self._op("Add", tokens, self._linear(hidden, *self._weights(name + "mlp.fc2")))

    def last_block(self, tokens: str, index: int) -> str:
        """The last block, for the class token only: (N, 1, width)."""
        name, width = f"blocks.{index}.", self.vit.width
        label, weight, bias = self._weights(name + "attn.qkv")
        normed = self._norm(tokens, name + "norm1")
        query = self._float_linear(self._first(normed), label + "_q", weight[:width], bias[:width])
        rest = self._linear(normed, label + "_kv", weight[width:], bias[width:])
        attended = self._attend_float(query, *self._split(rest, 2))
        token = self._first(tokens)
        projected = self._float_linear(attended, *self._weights(name + "attn.proj"))
        token = self._op("Add", token, projected)
        hidden = self._norm(token, name + "norm2")
        hidden = self._float_linear(hidden, *self._weights(name + "mlp.fc1"))
        return self._op("Add", token, self._float_linear(hidden, *self._weights(name + "mlp.fc2")))

    def model(self, token: str) -> onnx.ModelProto:
        """Normalise, apply the head and close the graph."""
        vit = self.vit
        flat = self._constant("token", np.array([-1, vit.width]))
        normed = self._norm(self._op("Reshape", token, flat), "norm")
        _, weight, bias = self._weights("head")
        head = self._constant("head.weight", weight)
        self._op("Gemm", normed, head, self._constant("head.bias", bias), out=OUTPUT, transB=1)
        pixels = [None, vit.image_px, vit.image_px, 3]
        graph = helper.make_graph(
            self._nodes,
            "vit",
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, pixels)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, len(bias)])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MS, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="avatar-moderation"
        )

    def _attend(self, query: str, key: str, value: str) -> str:
        return self._attend_float(query, key, value)

    def _attend_float(self, query: str, key: str, value: str) -> str:
        heads = self.vit.heads
        return self._op("MultiHeadAttention", query, key, value, domain=_MS, num_heads=heads)

    def _linear(self, x: str, name: str, weight: Float32Array, bias: Float32Array) -> str:
        return self._float_linear(x, name, weight, bias)

    def _float_linear(self, x: str, name: str, weight: Float32Array, bias: Float32Array) -> str:
        product = self._op("MatMul", x, self._constant(name + ".weight", weight.T))
        return self._add_bias(product, name, bias)

    def _add_bias(self, x: str, name: str, bias: Float32Array) -> str:
        constant = self._constant(name + ".bias", bias)
        if name.endswith("mlp.fc1"):
            return self._op("BiasGelu", x, constant, domain=_MS)
        return self._op("Add", x, constant)

    def _heads(self, x: str, order: list[int]) -> str:
        heads = self.vit.heads
        shape = np.array([0, -1, heads, self.vit.width // heads])
        apart = self._op("Reshape", x, self._constant("heads", shape))
        return self._op("Transpose", apart, perm=order)

    def _join_heads(self, x: str) -> str:
        tokens = self._op("Transpose", x, perm=[0, 2, 1, 3])
        shape = self._constant("joined", np.array([0, -1, self.vit.width]))
        return self._op("Reshape", tokens, shape)

    def _root(self) -> str:
        head_width = self.vit.width // self.vit.heads
        return self._constant("root", np.array(head_width**-0.5, np.float32))

    def _norm(self, x: str, name: str) -> str:
        _, weight, bias = self._weights(name)
        scale = self._constant(name + ".weight", weight)
        shift = self._constant(name + ".bias", bias)
        return self._op("LayerNormalization", x, scale, shift, epsilon=self.vit.epsilon)

    def _first(self, x: str) -> str:
        start, stop = self._constant("0", np.array([0])), self._constant("1", np.array([1]))
        return self._op("Slice", x, start, stop, stop)

    def _split(self, x: str, parts: int) -> list[str]:
        names = [f"split_{len(self._nodes)}_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [x], names, axis=2, num_outputs=parts))
        return names

    def _weights(self, name: str) -> tuple[str, Float32Array, Float32Array]:
        weights = self.vit.weights
        return name, weights[name + ".weight"], weights[name + ".bias"]

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def _op(
        self, kind: str, *inputs: str, domain: str = "", out: str = "", **attributes: Any
    ) -> str:
        result = out or f"{kind}_{len(self._nodes)}"
        node = helper.make_node(kind, inputs, [result], name=result, domain=domain, **attributes)
        self._nodes.append(node)
        return result


class _PortableGraph(_Graph):
    """The same blocks in operators that every runtime has."""

    def _attend_float(self, query: str, key: str, value: str) -> str:
        q = self._op("Mul", self._heads(query, [0, 2, 1, 3]), self._root())
        scores = self._op("MatMul", q, self._heads(key, [0, 2, 3, 1]))
        weights = self._op("Softmax", scores, axis=-1)
        return self._join_heads(self._op("MatMul", weights, self._heads(value, [0, 2, 1, 3])))

    def _add_bias(self, x: str, name: str, bias: Float32Array) -> str:
        added = self._op("Add", x, self._constant(name + ".bias", bias))
        return self._op("Gelu", added) if name.endswith("mlp.fc1") else added


class _Int8Graph(_Graph):
    """The same blocks with int8 products."""

    def _linear(self, x: str, name: str, weight: Float32Array, bias: Float32Array) -> str:
        scale = np.maximum(np.abs(weight).max(axis=1), 1e-12) / self.int8_range
        quantised = np.rint(weight / scale[:, None]).astype(np.int8).T
        inputs = [
            self._constant(name + ".int8", quantised),
            self._constant(name + ".scale", scale.astype(np.float32)),
            self._constant(f"zeros_{len(scale)}", np.zeros(len(scale), np.int8)),
        ]
        if name.endswith("mlp.fc1"):
            product = self._op("DynamicQuantizeMatMul", x, *inputs, domain=_MS)
            return self._add_bias(product, name, bias)
        inputs.append(self._constant(name + ".bias", bias))
        return self._op("DynamicQuantizeMatMul", x, *inputs, domain=_MS)

    def _attend(self, query: str, key: str, value: str) -> str:
        """Attention with both products in int8.

        A row of attention is quantised before it is divided by its sum, when its largest element is
        1: after it, a row spread over hundreds of tokens would round to zero.
        """
        q, q_scale, q_zero = self._quantise_unsigned(query)
        k, k_scale = self._quantise_signed(key)
        v, v_scale = self._quantise_signed(value)
        zero = self._constant("int8_zero", np.array(0, np.int8))
        scores = self._op(
            "MatMulIntegerToFloat",
            *(self._heads(q, [0, 2, 1, 3]), self._heads(k, [0, 2, 3, 1])),
            *(q_scale, self._op("Mul", k_scale, self._root()), q_zero, zero),
            domain=_MS,
        )
        axis = self._constant("last_axis", np.array([-1]))
        largest = self._op("ReduceMax", scores, axis, keepdims=1)
        weights = self._op("Exp", self._op("Sub", scores, largest))
        sums = self._op("ReduceSum", weights, axis, keepdims=1)
        step = self._constant("step", np.array(1 / 255, np.float32))
        none = self._constant("uint8_zero", np.array(0, np.uint8))
        mixed = self._op(
            "MatMulIntegerToFloat",
            *(self._op("QuantizeLinear", weights, step, none), self._heads(v, [0, 2, 1, 3])),
            *(step, v_scale, none, zero),
            domain=_MS,
        )
        return self._join_heads(self._op("Div", mixed, sums))

    def _quantise_unsigned(self, x: str) -> tuple[str, str, str]:
        name = f"quantised_{len(self._nodes)}"
        names = (name, name + "_scale", name + "_zero")
        self._nodes.append(helper.make_node("DynamicQuantizeLinear", [x], names))
        return names

    def _quantise_signed(self, x: str) -> tuple[str, str]:
        """Symmetric int8, since ONNX Runtime is much faster with a signed second operand."""
        largest = self._op("ReduceMax", self._op("Abs", x), keepdims=0)
        largest = self._op("Max", largest, self._constant("tiny", np.array(1e-12, np.float32)))
        step = self._constant("int8_step", np.array(1 / self.int8_range, np.float32))
        scale = self._op("Mul", largest, step)
        zero = self._constant("int8_zero", np.array(0, np.int8))
        return self._op("QuantizeLinear", x, scale, zero), scale


def _fold_normalisation(
    vit: Vit, mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64]
) -> tuple[Float32Array, npt.NDArray[np.float64]]:
    """Return the kernel (patch * patch * 3, width) and bias that take raw 0..255 pixels.

    Exact, because a patch embedding has no padding: conv((x / 255 - mean) / std) is linear in x.
    """
    kernel = vit.weights["patch_embed.proj.weight"].astype(np.float64)
    shift = (kernel * (mean / std)[:, None, None]).sum(axis=(1, 2, 3))
    scaled = kernel / (255.0 * std)[:, None, None]
    rows = scaled.transpose(2, 3, 1, 0).reshape(-1, vit.width).astype(np.float32)
    return rows, vit.weights["patch_embed.proj.bias"] - shift
