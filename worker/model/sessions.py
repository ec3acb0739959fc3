"""A graph in memory, behind one face: by ONNX Runtime, or by OpenVINO where it is installed.

What either raises leaves here as this project's errors; nothing above knows a runtime.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from producer.errors import BundleError, ConfigurationError, InferenceFailed

Float32Array = npt.NDArray[np.float32]
Runtime = Literal["onnxruntime", "openvino"]

CPU = "CPUExecutionProvider"


class Session(Protocol):
    """A loaded graph with one input and one output."""

    runtime: Runtime

    def run(self, tensor: npt.NDArray[Any]) -> Float32Array:
        """The first output for this input; raises InferenceFailed."""

    def facts(self) -> dict[str, Any]:
        """What the start-up banner says of it."""


class OnnxSession:
    """ONNX Runtime.

    Args:
        path: an ONNX file.
        threads: of one inference.
        providers: execution providers, in order of preference.
        arena: keep memory; it is never given back: right for runs of one size, too much for others.

    Raises:
        BundleError: the graph cannot be loaded.
        ConfigurationError: an execution provider is absent or did not start.
    """

    runtime: Runtime = "onnxruntime"

    def __init__(
        self, path: Path, *, threads: int, providers: Sequence[str] = (CPU,), arena: bool = False
    ) -> None:
        import onnxruntime as ort

        absent = [name for name in providers if name not in ort.get_available_providers()]
        if absent:
            raise ConfigurationError(
                f"execution provider {absent[0]} is not in this ONNX Runtime, which has "
                f"{', '.join(ort.get_available_providers())}; install the onnxruntime package that "
                "carries it or change AVATARMOD_EXECUTION_PROVIDERS"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = arena
        # Spinning threads would take the core from decoding and fetching.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise BundleError(f"{path} cannot be loaded: {_first_line(error)}") from error
        lost = [name for name in providers if name not in self._session.get_providers()]
        if lost:
            raise ConfigurationError(
                f"execution provider {lost[0]} is installed but did not start here; "
                f"ONNX Runtime fell back to {', '.join(self._session.get_providers())}"
            )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def run(self, tensor: npt.NDArray[Any]) -> Float32Array:
        """See `Session`."""
        try:
            output: Float32Array = self._session.run([self._output], {self._input: tensor})[0]
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise InferenceFailed(_first_line(error)) from error
        return output

    def facts(self) -> dict[str, Any]:
        """Providers, and how many nodes run on each."""
        return {
            "execution_providers": self._session.get_providers(),
            "nodes_by_provider": _nodes_by_provider(self._session),
        }


class OpenVinoSession:
    """OpenVINO, on the CPU.

    Args:
        path: its own `.xml` with a `.bin` beside it, or an ONNX file.
        threads: of one inference.
        precision: of what is not quantised: `f32`, or `bf16` where a bundle was compared so.

    Raises:
        BundleError: the graph cannot be loaded.
    """

    runtime: Runtime = "openvino"

    def __init__(self, path: Path, *, threads: int, precision: str = "f32") -> None:
        import openvino

        core = openvino.Core()
        if precision.upper() not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            precision = "f32"
        self._precision = precision
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            compiled = core.compile_model(core.read_model(path), "CPU", config)
        except Exception as error:  # noqa: BLE001 - whatever OpenVINO raises, the graph is not for it
            raise BundleError(f"{path} cannot be loaded: {_first_line(error)}") from None
        self._request = compiled.create_infer_request()

    def run(self, tensor: npt.NDArray[Any]) -> Float32Array:
        """See `Session`."""
        try:
            # The answer is copied: the next run would write over it.
            output: Float32Array = self._request.infer({0: tensor}, share_inputs=True)[0].copy()
        except Exception as error:  # OpenVINO raises RuntimeError and more
            raise InferenceFailed(_first_line(error)) from error
        return output

    def facts(self) -> dict[str, Any]:
        """The precision of what is not quantised."""
        return {"openvino_precision": self._precision}


def has_openvino() -> bool:
    """Whether the extra `openvino` is installed."""
    return importlib.util.find_spec("openvino") is not None


def _nodes_by_provider(session: Any) -> dict[str, int]:
    try:
        parts = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):  # ONNX Runtime before 1.24
        return {}
    counts: Counter[str] = Counter()
    for part in parts:
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
