import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from producer.errors import BundleError, ConfigurationError, InferenceFailed
from worker.model.bundle import Bundle
from worker.model.calibration import Identity, LabelSmoothing
from worker.model.engine import Engine
from worker.model.export.job import needs_reduced_range
from worker.model.export.parity import check_limits, compare
from worker.model.export.vit_graph import Vit, build_vit
from worker.model.tensor import probe_pixels
from worker.resources import rss_bytes

SIDE_PX = 8


def brightness_model(offset=0.0):
    """A graph whose second logit is the mean brightness (0..255) / 32 - 4 + offset, the first 0."""
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "last"], ["column"]),
        helper.make_node("Mul", ["column", "factor"], ["both"]),
        helper.make_node("Add", ["both", "shift"], ["logits"]),
    ]
    constants = {
        "axes": np.array([1, 2, 3]),
        "last": np.array([1]),
        "factor": np.array([0, 1 / 32], np.float32),
        "shift": np.array([0, offset - 4], np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, [None, SIDE_PX, SIDE_PX, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


@pytest.fixture
def bundle(tmp_path):
    """Make a bundle of the brightness model, changed as asked."""

    def entry(name, data):
        (tmp_path / name).write_bytes(data)
        return {"file": name, "sha256": hashlib.sha256(data).hexdigest()}

    def make(model=None, reference=None, **changes):
        square = {"width_px": SIDE_PX, "height_px": SIDE_PX, "resize_px": SIDE_PX}
        data = {
            "schema": 1,
            "name": "brightness",
            "source": "test",
            "revision": "0" * 40,
            "licence": "none",
            "labels": ["dark", "bright"],
            "nsfw_labels": ["bright"],
            "precision": "fp32",
            "input": {**square, "resize": "stretch", "interpolation": "bilinear"},
            "tensor": {
                **{"layout": "NHWC", "channels": "RGB", "dtype": "uint8", "scale": 1.0},
                **{"mean": [0, 0, 0], "std": [1, 1, 1]},
            },
            "output": "logits",
            "model": entry("model.onnx", model or brightness_model()),
            "reference": entry("reference.onnx", reference) if reference else None,
            "calibration": {"kind": "identity"},
            "parity": None,
            **changes,
        }
        (tmp_path / "model.json").write_text(json.dumps(data))
        return Bundle.load(f"{tmp_path}/", Path())

    return make


def gray(*levels):
    """One flat picture per level 0..255."""
    shape = (len(levels), SIDE_PX, SIDE_PX, 3)
    return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], shape).copy()


def expected(level, offset=0.0):
    return 1 / (1 + np.exp(-(level / 32 - 4 + offset)))


class TestRun:
    @pytest.mark.parametrize("micro_batch", [1, 2, 3, 8])
    @pytest.mark.parametrize("count", [1, 2, 7, 33])
    def test_rows_keep_their_order_for_any_number(self, bundle, micro_batch, count):
        """Slicing into micro-batches changes nothing."""
        engine = Engine(bundle(), micro_batch=micro_batch, threads=1)
        levels = np.random.default_rng(count).integers(0, 256, count)
        scores = engine.run(gray(*levels))
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, [expected(level) for level in levels], atol=1e-6)

    @pytest.mark.parametrize("shape", [(0, 8, 8, 3), (8, 8, 3), (1, 8, 9, 3), (1, 3, 8, 8)])
    def test_other_shapes_are_refused(self, bundle, shape):
        """The message names the shape that came and the one that fits."""
        engine = Engine(bundle(), micro_batch=1, threads=1)
        with pytest.raises(InferenceFailed, match="expected"):
            engine.run(np.zeros(shape, np.uint8))

    def test_threads_share_one_session(self, bundle):
        """Scores asked for from many threads at once are each thread's own."""
        engine = Engine(bundle(), micro_batch=2, threads=1)

        def ask(level):
            return engine.run(gray(level, 255 - level))

        with ThreadPoolExecutor(8) as pool:
            for level, scores in zip(range(200), pool.map(ask, range(200)), strict=True):
                wanted = [expected(level), expected(255 - level)]
                np.testing.assert_allclose(scores, wanted, atol=1e-6)

    def test_memory_is_flat(self, bundle):
        """Ten thousand pictures leave the process no larger than the first thousand did."""
        engine = Engine(bundle(), micro_batch=4, threads=1)
        pixels = gray(*range(100))
        for _ in range(10):
            engine.run(pixels)
        before = rss_bytes()
        for _ in range(100):
            engine.run(pixels)
        assert rss_bytes() - before < 4 * 2**20

    def test_several_explicit_labels_add_up(self, bundle):
        """The raw score is the probability of all explicit labels together."""
        engine = Engine(bundle(nsfw_labels=["dark", "bright"]), micro_batch=1, threads=1)
        np.testing.assert_allclose(engine.run(gray(10)), [1.0], atol=1e-6)

    def test_output_that_is_no_number_fails(self, bundle):
        """A model that gives NaN does not give a verdict."""
        with pytest.raises(BundleError, match=r"warm-up failed.*finite"):
            Engine(bundle(brightness_model(float("nan"))), threads=1)


class TestScore:
    def test_raw_score_and_probability_stand_side_by_side(self, bundle):
        """The calibration acts on the probability only."""
        smoothing = {"kind": "label_smoothing", "epsilon": 0.1}
        engine = Engine(bundle(calibration=smoothing), micro_batch=1, threads=1)
        (score,) = engine.score(gray(128))
        assert score.raw_score == pytest.approx(0.5)
        assert score.probability == pytest.approx(0.5)
        (score,) = engine.score(gray(230))
        assert score.raw_score == pytest.approx(expected(230))
        assert score.probability == LabelSmoothing(epsilon=0.1).probability(score.raw_score)

    def test_only_what_may_change_sides_is_scored_again(self, bundle):
        """Within the guard band float32 decides, outside of it int8 stands."""
        parity = {
            **{"pictures": 200, "reference": "float32", "max_error": 0.1, "p99_error": 0.1},
            **{"guard_band": 0.5, "details": {}},
        }
        made = bundle(brightness_model(0.4), brightness_model(), precision="int8", parity=parity)
        engine = Engine(made, micro_batch=2, threads=1)
        levels = [0, 60, 120, 128, 140, 200, 255]
        scores = engine.score(gray(*levels), cut_offs=(0.5,))
        assert [score.rescored for score in scores] == [
            False,
            False,
            True,
            True,
            False,
            False,
            False,
        ]
        for level, score in zip(levels, scores, strict=True):
            offset = 0.0 if score.rescored else 0.4
            assert score.raw_score == pytest.approx(expected(level, offset), abs=1e-6)
            assert (score.probability < 0.5) == (expected(level) < 0.5)

    def test_without_cut_offs_nothing_is_scored_again(self, bundle):
        """No cut-off, no verdict that could flip; the float32 model is not even loaded."""
        parity = {
            **{"pictures": 200, "reference": "float32", "max_error": 0.1, "p99_error": 0.1},
            **{"guard_band": 9.0, "details": {}},
        }
        made = bundle(brightness_model(), b"never read as a model", precision="int8", parity=parity)
        engine = Engine(made, micro_batch=1, threads=1)
        assert not any(score.rescored for score in engine.score(gray(1, 128, 255)))
        with pytest.raises(BundleError, match="cannot be loaded"):
            engine.score(gray(128), cut_offs=(0.5,))


class TestStart:
    def test_micro_batch_is_measured(self, bundle):
        """Without a wish the size is one of those tried, and the rates are told."""
        engine = Engine(bundle(), threads=1)
        assert engine.micro_batch in (1, 2, 4, 8)
        assert engine.micro_batch in engine.measured
        assert engine.description["micro_batch"] == engine.micro_batch

    def test_bundle_may_bound_the_micro_batch(self, bundle):
        """Where pictures of one run share their int8 range, they are run one by one."""
        made = bundle(max_micro_batch=1)
        assert Engine(made, threads=1).micro_batch == 1
        with pytest.raises(ConfigurationError, match="AVATARMOD_MICRO_BATCH is 4"):
            Engine(made, threads=1, micro_batch=4)

    def test_absent_execution_provider_refuses_to_start(self, bundle):
        """CUDA on a machine without it is a configuration error, not a silent fall-back."""
        with pytest.raises(ConfigurationError, match="CUDAExecutionProvider is not in this"):
            Engine(bundle(), execution_providers=("CUDAExecutionProvider", "CPUExecutionProvider"))

    def test_too_little_memory_refuses_to_start(self, bundle):
        """A budget below what the process already holds names both figures."""
        with pytest.raises(ConfigurationError, match="AVATARMOD_MAX_RSS_MB allows 1"):
            Engine(bundle(), threads=1, max_rss_mb=1)

    def test_description_says_what_took_the_graph(self, bundle):
        """The start-up banner has the provider, and how many nodes it took."""
        facts = Engine(bundle(random_weights=True), threads=1, micro_batch=1).description
        assert facts["execution_providers"] == ["CPUExecutionProvider"]
        assert facts["threads"] == 1
        assert "random weights" in facts["warning"]

    def test_file_that_is_no_model(self, bundle):
        """A file with the right hash and the wrong content is a bundle error."""
        with pytest.raises(BundleError, match=r"model\.onnx cannot be loaded"):
            Engine(bundle(b"not a model"))

    def test_labels_that_do_not_fit_the_graph(self, bundle):
        """Three labels for two outputs fail in the warm-up."""
        with pytest.raises(BundleError, match=r"warm-up failed.*\(1, 3\)"):
            Engine(bundle(labels=["a", "b", "bright"]), threads=1)

    def test_probe_that_scores_otherwise_is_refused(self, bundle):
        """A CPU whose arithmetic differs from where the bundle was made does not start."""
        made = bundle()
        raw = [float(x) for x in Engine(made, threads=1).run(probe_pixels(made.input))]
        fine = {"raw_scores": [x + 1e-4 for x in raw], "tolerance": 0.02}
        Engine(bundle(probe=fine), threads=1)
        wrong = {"raw_scores": [raw[0], raw[1] / 2], "tolerance": 0.02}
        with pytest.raises(BundleError, match="this CPU's arithmetic differs"):
            Engine(bundle(probe=wrong), threads=1)

    def test_micro_batch_can_change_while_nothing_else_runs(self, bundle):
        """Measuring leaves no thread behind."""
        before = threading.active_count()
        Engine(bundle(), threads=1)
        assert threading.active_count() == before


class TestParity:
    def test_report_of_equal_scores(self):
        """Identical scores differ by nothing and need no guard."""
        scores = np.linspace(0.01, 0.99, 200)
        parity = compare(scores, scores, calibration=Identity(), reference_name="itself")
        assert (parity.max_error, parity.guard_band, parity.details["flips"]) == (0, 0, 0)

    def test_guard_band_covers_every_error_seen(self):
        """After re-scoring, no verdict of the sample differs from float32's."""
        dice = np.random.default_rng(0)
        exact = dice.uniform(0.01, 0.99, 400)
        noisy = 1 / (1 + np.exp(-(np.log(exact / (1 - exact)) + dice.normal(0, 0.1, 400))))
        parity = compare(
            noisy,
            exact,
            calibration=LabelSmoothing(epsilon=0.1),
            reference_name="float32",
            rescored=exact,
            cut_offs=(0.3, 0.6),
        )
        assert parity.details["flips"] > 0
        assert parity.details["flips_after_rescoring"] == 0
        assert 0 < parity.details["rescored_share"] < 0.5

    def test_bundle_far_from_its_reference_is_refused(self, bundle):
        """The refusal has the figures and the limits."""
        scores = np.linspace(0.01, 0.99, 200)
        parity = compare(scores, 1 - scores, calibration=Identity(), reference_name="its reference")
        with pytest.raises(BundleError, match=r"too far from its reference.*limit 0\.001"):
            check_limits(parity, bundle())


class TestVitGraph:
    def make(self, **options):
        dice = np.random.default_rng(0)
        shapes = {"cls_token": (1, 1, 24), "pos_embed": (1, 5, 24), "norm": (24,), "head": (2, 24)}
        shapes["patch_embed.proj"] = (24, 3, 8, 8)
        for index in range(2):
            parts = {"norm1": (24,), "attn.qkv": (72, 24), "attn.proj": (24, 24)}
            parts |= {"norm2": (24,), "mlp.fc1": (96, 24), "mlp.fc2": (24, 96)}
            shapes |= {f"blocks.{index}.{name}": shape for name, shape in parts.items()}
        weights = {}
        for name, shape in shapes.items():
            array = (dice.standard_normal(shape) * 0.3).astype(np.float32)
            if name in ("cls_token", "pos_embed"):
                weights[name] = array
                continue
            weights[f"{name}.weight"] = array
            weights[f"{name}.bias"] = dice.standard_normal(shape[0]).astype(np.float32) * 0.1
        vit = Vit(image_px=16, patch_px=8, heads=3, epsilon=1e-6, weights=weights)
        model = build_vit(vit, mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7), **options)
        return vit, model

    @pytest.mark.parametrize("portable", [False, True])
    def test_float32_equals_the_definition(self, portable):
        """Fused or portable, the graph computes the textbook ViT, written out in numpy."""
        import onnxruntime as ort

        vit, model = self.make(portable=portable)
        domains = {node.domain for node in model.graph.node}
        assert domains == ({""} if portable else {"", "com.microsoft"})
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        pixels = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        logits = session.run(None, {"pixels": pixels})[0]
        wanted = textbook_vit(vit, (pixels / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.6, 0.7])
        np.testing.assert_allclose(logits, wanted, atol=2e-5)

    @pytest.mark.parametrize("int8_range", [127, 63])
    def test_int8_is_near_and_small(self, int8_range):
        """Quantised weights are a quarter of the size; logits move little."""
        import onnxruntime as ort

        vit, model = self.make(precision="int8", int8_range=int8_range)
        session = ort.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        pixels = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
        wanted = textbook_vit(vit, (pixels / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.6, 0.7])
        np.testing.assert_allclose(session.run(None, {"pixels": pixels})[0], wanted, atol=0.2)
        int8 = [
            tensor
            for tensor in model.graph.initializer
            if tensor.data_type == onnx.TensorProto.INT8
        ]
        weights = [tensor for tensor in int8 if tensor.name.endswith(".int8")]
        assert len(weights) == 5
        assert (
            max(np.abs(numpy_helper.to_array(t).astype(int)).max() for t in weights) == int8_range
        )


def textbook_vit(vit, x):
    """Vaswani 2017 and Dosovitskiy 2020 in float64: (N, side, side, 3) to (N, classes)."""
    from math import erf

    w = {name: np.asarray(array, np.float64) for name, array in vit.weights.items()}

    def norm(t, name):
        t = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + vit.epsilon)
        return t * w[name + ".weight"] + w[name + ".bias"]

    def linear(t, name):
        return t @ w[name + ".weight"].T + w[name + ".bias"]

    n, side, patch = len(x), vit.image_px // vit.patch_px, vit.patch_px
    kernel = w["patch_embed.proj.weight"]
    grid = x.reshape(n, side, patch, side, patch, 3)
    patches = np.einsum("nyaxbc,dcab->nyxd", grid, kernel).reshape(n, side * side, -1)
    patches = patches + w["patch_embed.proj.bias"]
    tokens = np.concatenate([np.repeat(w["cls_token"], n, 0), patches], 1) + w["pos_embed"]
    for index in range(vit.depth):
        block = f"blocks.{index}."
        qkv = linear(norm(tokens, block + "norm1"), block + "attn.qkv")
        q, k, v = qkv.reshape(n, -1, 3, vit.heads, vit.width // vit.heads).transpose(2, 0, 3, 1, 4)
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(vit.width // vit.heads)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(0, 2, 1, 3).reshape(n, -1, vit.width)
        tokens = tokens + linear(mixed, block + "attn.proj")
        hidden = linear(norm(tokens, block + "norm2"), block + "mlp.fc1")
        hidden = hidden * 0.5 * (1 + np.vectorize(erf)(hidden / np.sqrt(2)))
        tokens = tokens + linear(hidden, block + "mlp.fc2")
    return linear(norm(tokens, "norm")[:, 0], "head")


@pytest.mark.parametrize(
    ("flags", "reduced"),
    [
        ("avx2 avx512f", True),
        ("avx2 avx512_vnni", False),
        ("avx2 avx_vnni", False),
        ("neon", False),
    ],
)
def test_reduced_range_is_for_x86_without_vnni(tmp_path, flags, reduced):
    """7-bit weights where two products are added in 16 bits."""
    path = tmp_path / "cpuinfo"
    path.write_text(f"model name\t: x\nflags\t\t: fpu {flags}\n")
    assert needs_reduced_range(path) is reduced
