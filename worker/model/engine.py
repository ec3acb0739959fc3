"""Pixels to scores: one session, fed micro-batches of a size measured at start-up.

Takes what `preprocess.fit` made, returns one score per picture in the same order. Knows no queue
and no policy; of a policy it is only told the cut-offs, near which an int8 bundle scores again in
float32, so that its verdicts are float32's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import structlog

from producer.errors import BundleError, ConfigurationError, InferenceFailed
from producer.installed import how_to_install
from producer.texts import of_error, say
from worker.model.bundle import Bundle
from worker.model.calibration import logit, straddles
from worker.model.sessions import CPU, OnnxSession, OpenVinoSession, Session, has_openvino
from worker.model.tensor import normalise, probe_pixels
from worker.resources import allowed_cpus, release_memory, rss_bytes

log = structlog.get_logger()

Float32Array = npt.NDArray[np.float32]
Uint8Array = npt.NDArray[np.uint8]

#: Micro-batch sizes that are tried; larger ones cost memory and have never been faster on a CPU.
_CANDIDATES = (1, 2, 4, 8)

#: A larger micro-batch must raise throughput by more than this share to be worth its memory.
_WORTHWHILE = 0.03

#: Each size is timed this often, in turns, and its fastest run counts.
_ROUNDS = 4

Choice = Literal["onnxruntime", "openvino", "auto"]


@dataclass(frozen=True, slots=True)
class Score:
    """What the model says of one picture.

    Attributes:
        raw_score: the model's own output for the explicit labels, 0..1.
        probability: the same, calibrated, 0..1; cut-offs act on this.
        rescored: it lay near a cut-off and was scored again in float32.
        hold: what the model says for labels that may hold a picture and never clear one, 0..1.
    """

    raw_score: float
    probability: float
    rescored: bool = False
    hold: float = 0.0


class Engine:
    """A loaded bundle; safe to share between threads."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        runtime: Choice = "onnxruntime",
        execution_providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        micro_batch: int | None = None,
        max_rss_mb: int | None = None,
    ) -> None:
        """Load the model, warm it up and choose the micro-batch.

        Args:
            bundle: a verified bundle.
            runtime: what runs it; `auto`: what is faster here. Where OpenVINO cannot, ONNX Runtime
                does, which is logged.
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
        self._reference: Session | None = None
        self.measured: dict[int, float] = {}
        self._engine_ms: dict[str, float] = {}
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
        self._session = self._choose(runtime)
        self._warm_up()
        if micro_batch is None:
            self.micro_batch = self._measure_micro_batch()

    @property
    def description(self) -> dict[str, Any]:
        """Plain facts for the start-up banner: bundle, providers, threads, micro-batch."""
        facts: dict[str, Any] = {
            "bundle": self.bundle.id,
            "engine": self._session.runtime,
            **self._session.facts(),
            "threads": self.threads,
            "micro_batch": self.micro_batch,
            "guard_band": self.bundle.guard_band,
        }
        if self.bundle.random_weights:
            facts["warning"] = "random weights: scores mean nothing"
        if self._engine_ms:
            facts["engine_ms"] = self._engine_ms
        if self.measured:
            facts["images_per_second"] = {
                str(size): round(rate, 1) for size, rate in self.measured.items()
            }
        return facts

    def run(self, pixels: Uint8Array) -> Float32Array:
        """Score pictures; rows keep the input order.

        Args:
            pixels: (N, height_px, width_px, 3) uint8, RGB, N >= 1, as `preprocess.fit` gives.

        Returns:
            (N,) raw scores, 0..1.

        Raises:
            InferenceFailed: the shape is wrong or the session rejected a picture; none is scored.
        """
        return self._explicit(self._run(self._session, pixels))

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
        output = self._run(self._session, pixels)
        raw_scores = [float(raw) for raw in self._explicit(output)]
        holds = output[:, list(self.bundle.hold_columns)].sum(axis=1).tolist()
        calibration, band = self.bundle.calibration, self.bundle.guard_band
        calibrate = calibration.probability
        scores = [
            Score(raw, calibrate(raw), hold=hold)
            for raw, hold in zip(raw_scores, holds, strict=True)
        ]
        near = [
            row
            for row, raw in enumerate(raw_scores)
            if band and straddles(calibration, raw, band, cut_offs)
        ]
        if near:
            exact = self._explicit(self._run_reference(pixels[near]))
            for row, raw in zip(near, exact, strict=True):
                scores[row] = Score(float(raw), calibrate(float(raw)), True, scores[row].hold)
        return scores

    def _choose(self, wanted: Choice) -> Session:
        if wanted == "onnxruntime" or self._requested != (CPU,):
            return self._onnx_session()
        openvino = self._openvino_session(wanted)
        if openvino is None or wanted == "openvino":
            return openvino or self._onnx_session()
        onnx = self._onnx_session()
        best_s = {onnx.runtime: float("inf"), openvino.runtime: float("inf")}
        for _ in range(1 + _ROUNDS):
            for session in (onnx, openvino):
                seconds = self._time_per_picture_s(1, session)
                best_s[session.runtime] = min(best_s[session.runtime], seconds)
        self._engine_ms = {runtime: round(s * 1000, 1) for runtime, s in best_s.items()}
        is_faster = best_s[openvino.runtime] * (1 + _WORTHWHILE) < best_s[onnx.runtime]
        return openvino if is_faster else onnx

    def _openvino_session(self, wanted: Choice) -> Session | None:
        """None where it is absent or cannot load the graph, which is said where it was asked."""
        bundle = self.bundle
        if not has_openvino():
            why = "the package openvino is not installed"
        else:
            precision = bundle.openvino_precision or "f32"
            try:
                return OpenVinoSession(bundle.model_path, threads=self.threads, precision=precision)
            except BundleError as error:
                why = str(error)
        if wanted == "openvino" or bundle.openvino_precision:
            effect = "ONNX Runtime runs the float32 graph" if bundle.openvino_precision else ""
            log.warning(
                "openvino_unavailable",
                bundle=bundle.id,
                why=why,
                effect=effect or "ONNX Runtime runs it",
                fix=how_to_install("openvino"),
            )
        return None

    def _onnx_session(self) -> Session:
        """Of a bundle for OpenVINO, its float32 graph: the verdicts are the same, only slower."""
        bundle = self.bundle
        path = bundle.model_path
        if bundle.openvino_precision:
            assert bundle.reference_path is not None
            path = bundle.reference_path
        return OnnxSession(
            path, threads=self.threads, providers=self._requested, arena=self.keeps_memory
        )

    def _run(self, session: Session, pixels: Uint8Array) -> Float32Array:
        spec = self.bundle.input
        expected = (spec.height_px, spec.width_px, 3)
        if pixels.ndim != 4 or not len(pixels) or pixels.shape[1:] != expected:
            raise InferenceFailed(
                say(
                    "pixels have shape {shape}, expected (N, {expected})",
                    shape=pixels.shape,
                    expected=expected,
                )
            )
        parts = []
        for start in range(0, len(pixels), self.micro_batch):
            part = pixels[start : start + self.micro_batch]
            with self._lock:
                parts.append(self._infer(session, part))
        return np.concatenate(parts)

    def _infer(self, session: Session, pixels: Uint8Array) -> Float32Array:
        try:
            output = session.run(normalise(pixels, self.bundle.tensor))
        except InferenceFailed as error:
            raise InferenceFailed(
                say("{who}: {error}", who=self.bundle.id, error=of_error(error))
            ) from error.__cause__
        expected = (len(pixels), len(self.bundle.labels))
        if output.shape != expected or not np.isfinite(output).all():
            raise InferenceFailed(
                say(
                    "{bundle} gave an output of shape {shape} where finite numbers of shape "
                    "{expected} were expected",
                    bundle=self.bundle.id,
                    shape=output.shape,
                    expected=expected,
                )
            )
        if self.bundle.output == "logits":
            output = np.exp(output - output.max(axis=1, keepdims=True))
            output /= output.sum(axis=1, keepdims=True)
        result: Float32Array = output.astype(np.float32, copy=False)
        return result

    def _explicit(self, output: Float32Array) -> Float32Array:
        """(N, labels) probabilities -> (N,) raw scores."""
        raw: Float32Array = output[:, list(self.bundle.nsfw_columns)].sum(axis=1)
        return raw

    def time_per_picture_s(self) -> float:
        """Seconds of one picture in the chosen micro-batch, the fastest of a few runs."""
        return min(self._time_per_picture_s(self.micro_batch) for _ in range(_ROUNDS))

    def _run_reference(self, pixels: Uint8Array) -> Float32Array:
        path = self.bundle.reference_path
        if path is None:
            raise InferenceFailed(
                say("{bundle} has no float32 model to score again with", bundle=self.bundle.id)
            )
        with self._lock:
            if self._reference is None:
                # Most runs never need it, so its memory is taken on first use.
                self._reference = OnnxSession(path, threads=self.threads, providers=self._requested)
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
            raw_scores = self.run(pixels[: None if probe else 1])
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

    def _time_per_picture_s(self, size: int, session: Session | None = None) -> float:
        self.micro_batch = size
        pixels = self._blank(size)
        start_s = time.perf_counter()
        self._run(session or self._session, pixels)
        return (time.perf_counter() - start_s) / size
