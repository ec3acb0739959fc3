"""The second runtime: what it runs, what happens without it, and what is refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from structlog.testing import capture_logs

from producer.errors import BundleError
from producer.installed import how_to_install
from tests.unit.test_fuse import spelled_out
from worker.model.bundle import Bundle, file_entry
from worker.model.engine import Engine
from worker.model.export import parity
from worker.model.export.job import Reporter
from worker.model.fuse import fuse_gelu
from worker.model.install import make_bundle
from worker.model.sessions import OpenVinoSession
from worker.model.tensor import probe_pixels

SIDE_PX = 32

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra openvino is not installed"
)
needs_nncf = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="the extra export-openvino is not installed"
)

FIELDS = {
    "source": "test",
    "revision": "0" * 40,
    "licence": "none",
    "labels": ["sfw", "nsfw"],
    "nsfw_labels": ["nsfw"],
    "output": "logits",
    "input": {
        **{"width_px": SIDE_PX, "height_px": SIDE_PX, "resize_px": SIDE_PX},
        **{"resize": "stretch", "interpolation": "bilinear"},
    },
    "tensor": {
        **{"layout": "NCHW", "channels": "RGB", "dtype": "float32", "scale": 1 / 255},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    },
}


def small_cnn():
    """Two convolutions and a head, with fixed weights."""
    dice = np.random.default_rng(5)

    def weights(*shape):
        return (dice.normal(0, 1, shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "w1": weights(8, 3, 3, 3),
        "b1": weights(8, 1).ravel(),
        "w2": weights(16, 8, 3, 3),
        "b2": weights(16, 1).ravel(),
        "w3": weights(2, 16) * 4,
        "b3": np.array([0, 0.5], np.float32),
    }
    same = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], **same),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], **same),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "cnn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3, SIDE_PX, SIDE_PX])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def plain(tmp_path):
    """An installed bundle with a float32 ONNX graph."""
    path = tmp_path / "cnn.onnx"
    onnx.save(small_cnn(), path)
    return make_bundle(path, "cnn", FIELDS, tmp_path / "models" / "cnn")


@pytest.fixture
def in_ir(plain, tmp_path):
    """The same graph in OpenVINO's format, not quantised, beside its float32 graph."""
    import openvino

    folder = tmp_path / "ir"
    folder.mkdir()
    graph = openvino.Core().read_model(plain.model_path)
    openvino.save_model(graph, folder / "model.xml", compress_to_fp16=False)
    (folder / "cnn.onnx").write_bytes(plain.model_path.read_bytes())
    weights = file_entry(folder / "model.bin")
    data = {
        **plain.description,
        "precision": "int8",
        "model": file_entry(folder / "model.xml"),
        "reference": file_entry(folder / "cnn.onnx"),
        "openvino": {"precision": "f32", "weights": weights},
    }
    (folder / "model.json").write_text(json.dumps(data))
    return folder


def pixels(bundle):
    return probe_pixels(bundle.input)


class TestWithoutThePackage:
    @pytest.fixture(autouse=True)
    def _absent(self, monkeypatch):
        monkeypatch.setattr("worker.model.engine.has_openvino", lambda: False)

    def test_onnxruntime_goes_on_with_a_word(self, plain):
        """Asked for OpenVINO, an engine without it runs ONNX Runtime and logs how to get it."""
        with capture_logs() as logs:
            engine = Engine(plain, runtime="openvino", threads=1)
        assert engine.description["engine"] == "onnxruntime"
        (event,) = logs
        assert event["event"] == "openvino_unavailable"
        assert event["fix"] == how_to_install("openvino")

    def test_auto_says_nothing_of_what_nobody_asked_for(self, plain):
        """Without the package `auto` is ONNX Runtime, silently and without measuring."""
        with capture_logs() as logs:
            engine = Engine(plain, runtime="auto", threads=1)
        assert not logs
        assert "engine_ms" not in engine.description


@needs_openvino
class TestWithThePackage:
    def test_both_say_the_same(self, plain):
        """Float32 stays float32: the scores of an ONNX graph are equal to rounding."""
        ours = Engine(plain, runtime="onnxruntime", threads=1).run(pixels(plain))
        theirs = Engine(plain, runtime="openvino", threads=1).run(pixels(plain))
        np.testing.assert_allclose(theirs, ours, atol=1e-5)

    def test_auto_measures_both_and_says_so(self, plain):
        """The banner names the one chosen and the times of both."""
        facts = Engine(plain, runtime="auto", threads=1).description
        times = facts["engine_ms"]
        assert set(times) == {"onnxruntime", "openvino"}
        assert facts["engine"] in times

    def test_other_execution_providers_leave_it_out(self, plain, monkeypatch):
        """Whoever names a provider of ONNX Runtime besides the CPU gets ONNX Runtime."""
        monkeypatch.setattr("worker.model.engine.CPU", "another")
        assert Engine(plain, runtime="auto", threads=1).description["engine"] == "onnxruntime"

    def test_one_answer_is_not_written_over_by_the_next(self, plain):
        """The session's memory is its own: earlier scores stay as they were."""
        engine = Engine(plain, runtime="openvino", threads=1, micro_batch=1)
        both = engine.run(pixels(plain))
        alone = [float(engine.run(one[None])[0]) for one in pixels(plain)]
        np.testing.assert_allclose(both, alone, atol=1e-6)
        assert alone[0] != alone[1]

    def test_what_openvino_cannot_read_onnxruntime_runs(self, plain, monkeypatch):
        """A graph that is not for it is no reason to stand still."""

        def refuse(*_args, **_options):
            raise BundleError("no")

        monkeypatch.setattr("worker.model.engine.OpenVinoSession", refuse)
        with capture_logs() as logs:
            engine = Engine(plain, runtime="openvino", threads=1)
        assert engine.description["engine"] == "onnxruntime"
        assert logs[0]["why"] == "no"

    def test_a_bundle_for_it_runs_without_it(self, in_ir):
        """Where it is not asked for, the float32 graph beside it gives the verdicts."""
        bundle = Bundle.load(f"{in_ir}/", Path())
        theirs = Engine(bundle, runtime="openvino", threads=1)
        ours = Engine(bundle, runtime="onnxruntime", threads=1)
        assert (theirs.description["engine"], ours.description["engine"]) == (
            "openvino",
            "onnxruntime",
        )
        np.testing.assert_allclose(ours.run(pixels(bundle)), theirs.run(pixels(bundle)), atol=1e-5)

    def test_a_graph_whose_gelu_was_fused_is_read(self, tmp_path):
        """What is rewritten when a bundle is made is still a file that OpenVINO takes for ONNX."""
        path = tmp_path / "gelu.onnx"
        onnx.save(spelled_out(), path)
        before = OpenVinoSession(path, threads=1)
        assert fuse_gelu(path) == 2
        x = np.linspace(-4, 4, 48, dtype=np.float32).reshape(1, 3, 4, 4)
        np.testing.assert_allclose(
            OpenVinoSession(path, threads=1).run(x), before.run(x), atol=1e-5
        )

    def test_altered_weights_are_refused(self, in_ir):
        """The second file of its format is tied by its hash as every other is."""
        data = bytearray((in_ir / "model.bin").read_bytes())
        data[7] ^= 1
        (in_ir / "model.bin").write_bytes(data)
        with pytest.raises(BundleError, match=r"model\.bin is not the file"):
            Bundle.load(f"{in_ir}/", Path())


@needs_nncf
@needs_openvino
# Of NNCF's and SciPy's own making.
@pytest.mark.filterwarnings("ignore")
class TestExport:
    @pytest.fixture
    def export(self, plain, tmp_path):
        from worker.model.export.openvino import export_for_openvino

        target = tmp_path / "models" / "cnn-openvino"

        def export():
            return export_for_openvino(plain, target, folder=None, count=40, reporter=Reporter())

        return export

    def test_the_quantised_bundle_has_float32s_verdicts(self, plain, export):
        """It carries its parity, guard band and probe, and loads by name."""
        bundle = export()
        assert bundle.id == "cnn-openvino@00000000/int8/identity"
        assert bundle.parity.pictures == 40
        assert bundle.parity.details["flips_after_rescoring"] == 0
        assert set(bundle.parity.details["ms"]) == {"openvino", "onnxruntime"}
        assert 0 < bundle.guard_band < 0.5
        engine = Engine(bundle, runtime="openvino", threads=1)
        exact = Engine(plain, threads=1).run(pixels(plain))
        cut_offs = [bundle.calibration.probability(float(raw)) for raw in exact]
        scores = engine.score(pixels(plain), cut_offs)
        assert [score.rescored for score in scores] == [True, True]
        np.testing.assert_allclose([score.raw_score for score in scores], exact, atol=1e-6)

    def test_without_openvino_its_probe_still_holds(self, export):
        """The same bundle starts on a machine that has ONNX Runtime alone."""
        Engine(export(), runtime="onnxruntime", threads=1)

    def test_poor_parity_is_refused_with_figures(self, export, tmp_path, monkeypatch):
        """Nothing is written, and the message says how far it was off."""
        monkeypatch.setitem(parity.LIMITS, "int8", (1e-9, 1e-9))
        with pytest.raises(BundleError, match=r"differ by up to 0\.\d+ \(limit 1e-09\)"):
            export()
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["cnn"]
