"""Pixels to scores: one ONNX Runtime session, fed micro-batches of a size measured at start-up.

Takes what `worker.pixels.fit` made, returns one score per picture in the same order. Knows no queue
and no policy; of a policy it is only told the cut-offs, near which an int8 bundle scores again in
float32, so that its verdicts are float32's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from producer.errors import BundleError, ConfigurationError, InferenceFailed
from worker.bundle import Bundle, normalise, probe_pixels
from worker.calibration import logit, straddles
from worker.cpus import allowed_cpus
from worker.memory import release_memory, rss_bytes

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

#: Micro-batch sizes that are tried; larger ones cost memory and have never been faster on a CPU.
_CANDIDATES = (1, 2, 4, 8)

#: A larger micro-batch must raise throughput by more than this share to be worth its memory.
_WORTHWHILE = 0.03

#: Each size is timed this often, in turns, and its fastest run counts.
_ROUNDS = 4

CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Score:
    """What the model says of one picture.

    Attributes:
        raw_score: the model's own output for the explicit labels, 0..1.
        probability: the same, calibrated, 0..1; cut-offs act on this.
        rescored: it lay near a cut-off and was scored again in float32.
    """

    raw_score: float
    probability: float
    rescored: bool


class Engine:
    """A loaded bundle; safe to share between threads."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        execution_providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        micro_batch: int | None = None,
        max_rss_mb: int | None = None,
    ) -> None:
        """Load the model, warm it up and choose the micro-batch.

        Args:
            bundle: a verified bundle.
            execution_providers: ONNX Runtime's names, in order of preference.
            threads: threads of one inference; None: the CPUs this process may use.
            micro_batch: pictures in one inference; None: measured.
            max_rss_mb: resident memory of this process that measuring must not pass, in MiB.

        Raises:
            BundleError: the model cannot be loaded or its warm-up failed.
            ConfigurationError: an execution provider is absent, or the memory is not enough.
        """
        self.bundle = bundle
        self.threads = threads or allowed_cpus()
        self._requested = tuple(execution_providers)
        self._max_rss_mb = max_rss_mb
        # One inference at a time: it uses every allowed CPU, and memory stays that of one.
        self._lock = threading.Lock()
        self._reference: ort.InferenceSession | None = None
        self.measured: dict[int, float] = {}
        limit = bundle.max_micro_batch
        if micro_batch and limit and micro_batch > limit:
            raise ConfigurationError(
                f"AVATARMOD_MICRO_BATCH is {micro_batch}, but pictures of {bundle.id} are only "
                f"scored independently of each other up to {limit}"
            )
        micro_batch = micro_batch or (1 if limit == 1 else None)
        self.micro_batch = micro_batch or 1
        #: Whether every run has the same size, so that memory is taken once and kept.
        self.keeps_memory = micro_batch == 1
        self._session = self._open(bundle.model_path, arena=self.keeps_memory)
        self._warm_up()
        if micro_batch is None:
            self.micro_batch = self._measure_micro_batch()

    @property
    def description(self) -> dict[str, Any]:
        """Plain facts for the start-up banner: bundle, providers, threads, micro-batch."""
        facts: dict[str, Any] = {
            "bundle": self.bundle.id,
            "execution_providers": self._session.get_providers(),
            "nodes_by_provider": _nodes_by_provider(self._session),
            "threads": self.threads,
            "micro_batch": self.micro_batch,
            "guard_band": self.bundle.guard_band,
        }
        if self.bundle.random_weights:
            facts["warning"] = "random weights: scores mean nothing"
        if self.measured:
            facts["images_per_second"] = {
                str(size): round(rate, 1) for size, rate in self.measured.items()
            }
        return facts

    def run(self, pixels: Uint8Array) -> Float32Array:
        """Score pictures; rows keep the input order.

        Args:
            pixels: (N, height_px, width_px, 3) uint8, RGB, N >= 1, as `worker.pixels.fit` gives.

        Returns:
            (N,) raw scores, 0..1.

        Raises:
            InferenceFailed: the shape is wrong or the session rejected a picture; none is scored.
        """
        return self._run(self._session, pixels)

    def score(self, pixels: Uint8Array, cut_offs: Sequence[float] = ()) -> list[Score]:
        """Score and calibrate; near a cut-off an int8 bundle's picture is scored in float32.

        Args:
            pixels: as for `run`.
            cut_offs: probabilities at which the verdict may change.

        Returns:
            One `Score` per picture, in order.

        Raises:
            InferenceFailed: as for `run`.
        """
        raw_scores = [float(raw) for raw in self.run(pixels)]
        calibration, band = self.bundle.calibration, self.bundle.guard_band
        calibrate = calibration.probability
        scores = [Score(raw, calibrate(raw), False) for raw in raw_scores]
        near = [
            row
            for row, raw in enumerate(raw_scores)
            if band and straddles(calibration, raw, band, cut_offs)
        ]
        if near:
            for row, raw in zip(near, self._run_reference(pixels[near]), strict=True):
                scores[row] = Score(float(raw), calibrate(float(raw)), True)
        return scores

    def _open(self, path: Path, *, arena: bool = False) -> ort.InferenceSession:
        absent = [name for name in self._requested if name not in ort.get_available_providers()]
        if absent:
            raise ConfigurationError(
                f"execution provider {absent[0]} is not in this ONNX Runtime, which has "
                f"{', '.join(ort.get_available_providers())}; install the onnxruntime package that "
                "carries it or change AVATARMOD_EXECUTION_PROVIDERS"
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # The arena never gives memory back: right for runs of one size, too much for others.
        options.enable_cpu_mem_arena = arena
        # Spinning threads would take the core from decoding and fetching.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(str(path), options, providers=list(self._requested))
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise BundleError(f"{path} cannot be loaded: {_first_line(error)}") from error
        lost = [name for name in self._requested if name not in session.get_providers()]
        if lost:
            raise ConfigurationError(
                f"execution provider {lost[0]} is installed but did not start here; "
                f"ONNX Runtime fell back to {', '.join(session.get_providers())}"
            )
        return session

    def _run(self, session: ort.InferenceSession, pixels: Uint8Array) -> Float32Array:
        spec = self.bundle.input
        expected = (spec.height_px, spec.width_px, 3)
        if pixels.ndim != 4 or not len(pixels) or pixels.shape[1:] != expected:
            raise InferenceFailed(f"pixels have shape {pixels.shape}, expected (N, {expected})")
        parts = []
        for start in range(0, len(pixels), self.micro_batch):
            part = pixels[start : start + self.micro_batch]
            with self._lock:
                parts.append(self._infer(session, part))
        return np.concatenate(parts)

    def _infer(self, session: ort.InferenceSession, pixels: Uint8Array) -> Float32Array:
        feed = {session.get_inputs()[0].name: normalise(pixels, self.bundle)}
        try:
            output = session.run([session.get_outputs()[0].name], feed)[0]
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
            raise InferenceFailed(f"{self.bundle.id}: {_first_line(error)}") from error
        expected = (len(pixels), len(self.bundle.labels))
        if output.shape != expected or not np.isfinite(output).all():
            raise InferenceFailed(
                f"{self.bundle.id} gave an output of shape {output.shape} where finite numbers of "
                f"shape {expected} were expected"
            )
        if self.bundle.output == "logits":
            output = np.exp(output - output.max(axis=1, keepdims=True))
            output /= output.sum(axis=1, keepdims=True)
        raw: Float32Array = output[:, list(self.bundle.nsfw_columns)].sum(axis=1)
        return raw.astype(np.float32, copy=False)

    def _run_reference(self, pixels: Uint8Array) -> Float32Array:
        path = self.bundle.reference_path
        if path is None:
            raise InferenceFailed(f"{self.bundle.id} has no float32 model to score again with")
        with self._lock:
            if self._reference is None:
                # Most runs never need it, so its memory is taken on first use.
                self._reference = self._open(path)
                release_memory()
        return self._run(self._reference, pixels)

    def _blank(self, count: int) -> Uint8Array:
        spec = self.bundle.input
        return np.full((count, spec.height_px, spec.width_px, 3), 127, np.uint8)

    def _warm_up(self) -> None:
        """Score the bundle's probe: slow first runs are over, and wrong arithmetic is noticed.

        int8 products of CPUs without VNNI saturate where others do not, without any error.
        """
        probe = self.bundle.probe
        pixels = probe_pixels(self.bundle.input)
        try:
            raw_scores = self._run(self._session, pixels[: None if probe else 1])
        except InferenceFailed as error:
            raise BundleError(f"the model's warm-up failed: {error}") from error
        for raw, expected in zip(raw_scores, probe.raw_scores if probe else (), strict=False):
            difference = abs(logit(float(raw)) - logit(expected))
            if probe and difference > probe.tolerance:
                raise BundleError(
                    f"{self.bundle.id} scores its probe {raw:.5f} here and {expected:.5f} where it "
                    "was made: this CPU's arithmetic differs; export the bundle on this machine"
                )
        self._check_memory()

    def _check_memory(self) -> None:
        used_mb = rss_bytes() / 2**20
        if self._max_rss_mb and used_mb > self._max_rss_mb:
            raise ConfigurationError(
                f"this model needs {used_mb:.0f} MiB with a micro-batch of 1, but "
                f"AVATARMOD_MAX_RSS_MB allows {self._max_rss_mb}"
            )

    def _measure_micro_batch(self) -> int:
        """Return the smallest size whose throughput is within 3 % of the best tried."""
        limit = self.bundle.max_micro_batch or max(_CANDIDATES)
        sizes = [size for size in _CANDIDATES if size <= limit]
        best_s = dict.fromkeys(sizes, float("inf"))
        for turn in range(_ROUNDS):
            for size in list(sizes):
                best_s[size] = min(best_s[size], self._time_per_picture_s(size))
                smaller = [other for other in sizes if other < size]
                if not smaller:
                    continue
                fat = bool(self._max_rss_mb) and rss_bytes() / 2**20 > (self._max_rss_mb or 0)
                slower = best_s[size] > min(best_s[other] for other in smaller)
                # A size that does not pay at first sight leads to larger ones that cost memory.
                if fat or (turn == 0 and slower):
                    sizes = smaller
                    break
        release_memory()
        self.measured = {size: 1 / best_s[size] for size in sizes}
        fastest_s = min(best_s[size] for size in sizes)
        return min(size for size in sizes if best_s[size] <= fastest_s * (1 + _WORTHWHILE))

    def _time_per_picture_s(self, size: int) -> float:
        self.micro_batch = size
        pixels = self._blank(size)
        start_s = time.perf_counter()
        self._run(self._session, pixels)
        return (time.perf_counter() - start_s) / size


def _nodes_by_provider(session: ort.InferenceSession) -> dict[str, int]:
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
