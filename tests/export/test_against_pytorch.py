"""Bundles against PyTorch: from an image file to a probability, and optimum's road end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.hub_server import COMMIT, HubServer
from worker.image.preprocess import fit
from worker.model.bundle import Bundle
from worker.model.engine import Engine
from worker.model.export.job import needs_reduced_range
from worker.model.export.parity import synthetic_pictures
from worker.model.export.random_checkpoint import write_random_checkpoint

torch = pytest.importorskip("torch", reason="make test-export installs PyTorch")
from tests.export.torch_shim import allow_torchvision_without_kernels  # noqa: E402

allow_torchvision_without_kernels()

pytestmark = [
    pytest.mark.export,
    pytest.mark.timeout(900),
    # PyTorch and its exporters warn about their own future.
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).resolve().parents[2]
TIMM, TIMM_TRUE, FALCON = "lab/timm-small", "lab/timm-true-size", "lab/falcon-small"


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Image files of odd kinds: non-square, tiny, a strip, grayscale, JPEG and PNG."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for index, picture in enumerate(synthetic_pictures(12, seed=5)):
        paths.append(folder / f"{index}.{'jpg' if index % 2 else 'png'}")
        picture.save(paths[-1])
    odd = next(synthetic_pictures(1, seed=6))
    for name, image in {
        "tiny": odd.resize((3, 5)),
        "dot": odd.resize((1, 1)),
        "wide": odd.resize((700, 80)),
        "tall": odd.resize((90, 800)),
        "gray": odd.convert("L"),
    }.items():
        paths.append(folder / f"{name}.png")
        image.save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Three repositories: timm small, timm in the recommended model's true size, transformers."""
    import transformers
    from safetensors.numpy import load_file, save_file

    parent = tmp_path_factory.mktemp("checkpoints")
    small = write_random_checkpoint(parent / "small", image_px=64, width=48, depth=3, heads=3)
    true_size = write_random_checkpoint(parent / "true", image_px=384)
    falcon = parent / "falcon"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        image_size=64,
        patch_size=16,
        id2label={0: "normal", 1: "nsfw"},
        label2id={"normal": 0, "nsfw": 1},
    )
    transformers.ViTForImageClassification(config).save_pretrained(falcon)
    # Fresh weights of standard deviation 0.02 would give every picture the same score.
    tensors = load_file(falcon / "model.safetensors")
    dice = np.random.default_rng(0)
    for name, array in tensors.items():
        if array.ndim > 1:
            tensors[name] = (dice.standard_normal(array.shape) * 0.2).astype(np.float32)
    save_file(tensors, falcon / "model.safetensors", metadata={"format": "pt"})
    transformers.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(falcon)
    return {TIMM: small, TIMM_TRUE: true_size, FALCON: falcon}


@pytest.fixture(scope="session")
def hub(checkpoints):
    server = HubServer()
    server.repositories.update(checkpoints)
    yield server
    server.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def export(hub, models, tmp_path_factory):
    cache = tmp_path_factory.mktemp("hf")

    def run(*arguments):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AVATARMOD_"))}
        env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "tests.export.run_export", *map(str, arguments)]
        command += ["--models-folder", str(models), "--json"]
        result = subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=600, check=False
        )
        assert result.returncode == 0, result.stderr
        return [json.loads(result.stdout)[0], result.stderr]

    return run


def probabilities(bundle, paths):
    engine = Engine(bundle, threads=1, micro_batch=1)
    pixels = [fit(Image.open(path).convert("RGB"), bundle.input) for path in paths]
    return [score.probability for score in engine.score(np.stack(pixels))]


def timm_probabilities(folder, paths):
    """Score with timm's own transform and model, as its documentation uses them."""
    import timm
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    arguments = config.get("model_args", {})
    model = timm.create_model(config["architecture"], num_classes=2, **arguments)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    model.eval()
    data = timm.data.resolve_data_config(pretrained_cfg=config["pretrained_cfg"])
    transform = timm.data.create_transform(**data, is_training=False)
    answers = []
    with torch.inference_mode():
        for path in paths:
            tensor = transform(Image.open(path).convert("RGB"))[None]
            answers.append(float(model(tensor).softmax(dim=-1)[0, 0]))
    return answers


def transformers_probabilities(folder, paths):
    """Score with transformers' own processor and model."""
    import transformers

    processor = transformers.ViTImageProcessor.from_pretrained(folder)
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    answers = []
    with torch.inference_mode():
        for path in paths:
            image = Image.open(path).convert("RGB")
            inputs = processor(image, return_tensors="pt", input_data_format="channels_last")
            answers.append(float(model(**inputs).logits.softmax(dim=-1)[0, 1]))
    return answers


@pytest.mark.parametrize("repository", [TIMM, TIMM_TRUE, FALCON])
def test_float32_equals_pytorch_from_file_to_probability(
    repository, export, models, checkpoints, files
):
    """The lean bundle's probabilities are the library's own within 1e-4, on every kind of file."""
    description, log = export("--model", repository, "--precision", "fp32")
    assert "exporting the reference with optimum" in log
    assert description["parity"]["reference"].startswith("optimum's float32 export")
    assert description["parity"]["max_error"] < 1e-4
    bundle = Bundle.load(description["name"], models)
    reference = transformers_probabilities if repository == FALCON else timm_probabilities
    expected = reference(checkpoints[repository], files)
    assert max(expected) - min(expected) > 0.05
    np.testing.assert_allclose(probabilities(bundle, files), expected, atol=1e-4)


@pytest.mark.parametrize("repository", [TIMM, FALCON])
def test_int8_is_measured_against_optimum(repository, export, models):
    """The int8 bundle's report has optimum's export as reference, and no flips after re-scoring."""
    description, _ = export("--model", repository)
    parity = description["parity"]
    assert parity["reference"].startswith("optimum's float32 export")
    assert parity["details"]["float32"]["max_error"] < 1e-4
    assert parity["details"]["flips_after_rescoring"] == 0
    assert description["revision"] == COMMIT
    Bundle.load(description["name"], models)


#: CPUs without VNNI get 7-bit weights; the export then refuses this random model with its figures,
#: as it should.
COARSE = pytest.mark.skipif(
    needs_reduced_range(), reason="7-bit weights, as this CPU needs, are too coarse for random ones"
)


@pytest.mark.parametrize(
    ("repository", "precision"),
    [
        (TIMM, "fp32"),
        (TIMM, "int8"),
        (FALCON, "fp32"),
        pytest.param(FALCON, "int8", marks=COARSE),
    ],
)
def test_optimum_road_gives_a_working_bundle(
    repository, precision, export, models, checkpoints, files
):
    """--road optimum stays open: its graph, quantised the usual way, in the same kind of bundle."""
    name = f"optimum-{repository[4:8]}-{precision}"
    description, _ = export(
        *("--model", repository, "--road", "optimum", "--precision", precision),
        *("--out", models / name),
    )
    assert description["export"]["road"] == "optimum"
    assert description["tensor"]["layout"] == "NCHW"
    bundle = Bundle.load(name, models)
    reference = transformers_probabilities if repository == FALCON else timm_probabilities
    expected = reference(checkpoints[repository], files)
    limit = 1e-4 if precision == "fp32" else 0.1
    np.testing.assert_allclose(probabilities(bundle, files), expected, atol=limit)


def test_random_checkpoint_has_timms_layout(checkpoints, tmp_path):
    """Tensors, names, shapes and byte length are those that timm's save_for_hf writes."""
    import timm
    from safetensors.numpy import load_file

    model = timm.create_model("vit_tiny_patch16_384", num_classes=2)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    ours, theirs = checkpoints[TIMM_TRUE], tmp_path
    shapes = [
        {name: array.shape for name, array in load_file(folder / "model.safetensors").items()}
        for folder in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (ours, theirs)]
    assert sizes == [22_404_720, 22_404_720]
