"""The lean road from the hub's protocol to a working bundle, through the real command line."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from producer.errors import BundleError
from tests.hub_server import COMMIT, HubServer
from worker.model.bundle import Bundle
from worker.model.engine import Engine
from worker.model.export.checkpoint import describe_checkpoint, load_vit
from worker.model.export.command import export_bundle
from worker.model.export.job import Request
from worker.model.export.parity import LIMITS
from worker.model.export.random_checkpoint import write_random_checkpoint
from worker.model.recipes import pinned

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "lab/nsfw-vit-small"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    return write_random_checkpoint(folder, image_px=64, width=48, depth=3, heads=3)


@pytest.fixture
def hub(checkpoint):
    server = HubServer()
    server.repositories[REPOSITORY] = checkpoint
    yield server
    server.close()


@pytest.fixture
def export(tmp_path, hub):
    """Run `avatarmod export` in a process of its own, with a cache of its own."""

    def run(*arguments, **environment):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "AVATARMOD_"))}
        env = {
            **kept,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **environment,
        }
        command = [sys.executable, "scripts/export_onnx.py", *map(str, arguments)]
        command += ["--models-folder", str(tmp_path / "models")]
        return subprocess.run(
            command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=240, check=False
        )

    return run


def refused(result, *words):
    assert result.returncode == 1, result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    return True


def written(tmp_path):
    models = tmp_path / "models"
    return written_under(models) if models.exists() else []


class TestFromTheHub:
    def test_one_command_gives_a_verified_bundle(self, export, tmp_path, hub):
        """Download, graph, int8, parity and bundle, with every fact in model.json."""
        result = export("--model", REPOSITORY, "--licence", "Apache-2.0", "--json")
        assert result.returncode == 0, result.stderr
        (description,) = json.loads(result.stdout)
        assert description["revision"] == COMMIT
        assert description["random_weights"] is True
        assert description["parity"]["pictures"] == 200
        assert description["parity"]["details"]["flips_after_rescoring"] == 0
        bundle = Bundle.load("random-nsfw-vit-small", tmp_path / "models")
        assert bundle.id == f"random-nsfw-vit-small@{COMMIT[:8]}/int8/identity"
        assert bundle.nsfw_labels == ("NSFW",)
        assert Engine(bundle, threads=1).micro_batch == 1
        assert any(
            path.endswith("/store/" + COMMIT + "/model.safetensors") for _, path, _ in hub.requests
        )

    def test_a_second_run_repeats_nothing(self, export, tmp_path):
        """The same request finds its bundle, without asking the hub for the weights again."""
        assert export("--model", REPOSITORY).returncode == 0
        before = (tmp_path / "models/random-nsfw-vit-small/model.json").stat().st_mtime_ns
        again = export("--model", REPOSITORY, HF_HUB_OFFLINE="1")
        assert again.returncode == 0, again.stderr
        assert "already in" in again.stderr
        assert (tmp_path / "models/random-nsfw-vit-small/model.json").stat().st_mtime_ns == before

    def test_both_precisions(self, export, tmp_path):
        """--precision both writes two bundles that load."""
        result = export("--model", REPOSITORY, "--precision", "both")
        assert result.returncode == 0, result.stderr
        for name, precision in (
            ("random-nsfw-vit-small", "int8"),
            ("random-nsfw-vit-small-fp32", "fp32"),
        ):
            assert Bundle.load(name, tmp_path / "models").precision == precision

    def test_a_flipped_byte_is_refused_and_fetched_again(self, export, tmp_path, hub):
        """Weights that differ from the hub's hash are not used; a later run succeeds."""

        def flip(path, data):
            if not path.endswith(".safetensors"):
                return data
            return data[:-1] + bytes([data[-1] ^ 1])

        hub.tamper = flip
        assert refused(export("--model", REPOSITORY), "sha256", "removed from the cache")
        assert written(tmp_path) == []
        hub.tamper = lambda path, data: data
        assert export("--model", REPOSITORY).returncode == 0

    def test_a_pinned_hash_is_checked(self, export, tmp_path):
        """--sha256 that does not fit names both hashes."""
        assert refused(export("--model", REPOSITORY, "--sha256", "0" * 64), "0" * 64)
        assert written(tmp_path) == []

    def test_the_default_model_is_pinned(self, export, hub, checkpoint, tmp_path):
        """Other weights under the recommended model's name and revision are refused."""
        _, pin = pinned("Marqo/nsfw-image-detection-384")
        hub.repositories["Marqo/nsfw-image-detection-384"] = checkpoint
        assert refused(export(), f"no revision '{pin.revision}'")
        hub.commit = pin.revision
        assert refused(export(), pin.sha256, "pinned for Marqo/nsfw-image-detection-384")
        assert written(tmp_path) == []

    def test_an_interrupted_download_completes(self, export, hub):
        """A transfer that broke off is taken up again, by the client or by the next run."""
        hub.cut_after["model.safetensors"] = 100_000
        first = export("--model", REPOSITORY)
        if first.returncode != 0:
            assert refused(first)
            assert export("--model", REPOSITORY).returncode == 0
        fetched = [path for verb, path, _ in hub.requests if verb == "GET" and "/store/" in path]
        assert len(fetched) >= 2


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--model", "lab/absent"], ["no model 'lab/absent'"]),
            (["--model", REPOSITORY, "--revision", "v9"], ["no revision 'v9'"]),
            (["--model", "not a model"], ["neither a folder nor a hub id"]),
            (["--model", REPOSITORY, "--nsfw-labels", "naked"], ["naked", "['NSFW', 'SFW']"]),
        ],
    )
    def test_wrong_requests_are_told_apart(self, export, tmp_path, arguments, words):
        """Each mistake has its own message, and nothing is written."""
        assert refused(export(*arguments), *words)
        assert written(tmp_path) == []

    def test_unreachable_hub(self, export, tmp_path):
        """No answer at HF_ENDPOINT: the message names it and the ways out."""
        result = export("--model", REPOSITORY, HF_ENDPOINT="http://127.0.0.1:9")
        assert refused(result, "http://127.0.0.1:9", "HF_ENDPOINT", "--model FOLDER")

    def test_offline_without_cache(self, export):
        """HF_HUB_OFFLINE is honoured and named."""
        assert refused(export("--model", REPOSITORY, HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE")

    def test_no_image_classifier(self, export, tmp_path):
        """A language model's configuration is refused by what it is."""
        folder = tmp_path / "bert"
        folder.mkdir()
        (folder / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
        (folder / "model.safetensors").write_bytes(b"")
        assert refused(export("--model", folder), "no image classifier", "BertForMaskedLM")

    def test_labels_without_an_explicit_one(self, export, tmp_path, checkpoint):
        """Labels that say nothing are named together with the option that helps."""
        folder = tmp_path / "cats"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
        config = json.loads((checkpoint / "config.json").read_text())
        config["label_names"] = ["cat", "dog"]
        (folder / "config.json").write_text(json.dumps(config))
        assert refused(export("--model", folder), "['cat', 'dog']", "--nsfw-labels")
        result = export("--model", folder, "--nsfw-labels", "dog")
        assert result.returncode == 0, result.stderr

    def test_broken_weights(self, export, tmp_path, checkpoint):
        """A file cut short is told as such."""
        folder = tmp_path / "cut"
        folder.mkdir()
        (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
        data = (checkpoint / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
        assert refused(export("--model", folder), "cannot be read as safetensors")
        assert written(tmp_path) == []

    def test_a_folder_that_is_no_bundle_is_not_overwritten(self, export, tmp_path):
        """--out on somebody's folder is refused and the folder stays."""
        target = tmp_path / "photos"
        target.mkdir()
        (target / "holiday.jpg").write_bytes(b"x")
        assert refused(export("--model", REPOSITORY, "--out", target), "is no bundle")
        assert (target / "holiday.jpg").exists()


def test_interrupted_export_goes_on_where_it_stopped(export, tmp_path):
    """What an earlier run finished is kept, a half-written file is not trusted."""
    assert export("--model", REPOSITORY).returncode == 0
    bundle = tmp_path / "models/random-nsfw-vit-small"
    key = json.loads((bundle / "model.json").read_text())["export"]["key"]
    work = bundle.parent / f".{bundle.name}.{key[:12]}.partial"
    bundle.rename(work)
    (work / "model-int8.onnx").rename(work / "model-int8.unfinished")
    (work / "model.json").unlink()
    result = export("--model", REPOSITORY)
    assert result.returncode == 0, result.stderr
    assert "building the float32 graph: done before" in result.stderr
    assert "quantising to int8: done before" not in result.stderr
    assert Bundle.load(bundle.name, bundle.parent).parity
    assert not work.exists()


def test_verdicts_of_int8_equal_float32(export, tmp_path):
    """Over fresh pictures, near any cut-off, the guarded int8 engine decides as float32 does."""
    from worker.image.preprocess import fit
    from worker.model.export.parity import synthetic_pictures

    assert export("--model", REPOSITORY, "--precision", "both").returncode == 0
    int8 = Engine(Bundle.load("random-nsfw-vit-small", tmp_path / "models"), threads=1)
    fp32 = Engine(Bundle.load("random-nsfw-vit-small-fp32", tmp_path / "models"), threads=1)
    pixels = np.stack([fit(image, int8.bundle.input) for image in synthetic_pictures(150, seed=77)])
    exact = [score.probability for score in fp32.score(pixels)]
    # Cut-offs amid the scores, where quantisation would flip verdicts.
    cut_offs = tuple(np.quantile(exact, [0.2, 0.5, 0.8]))
    guarded = int8.score(pixels, cut_offs)
    plain = int8.score(pixels)
    assert np.array_equal(
        np.digitize([score.probability for score in guarded], cut_offs),
        np.digitize(exact, cut_offs),
    )
    assert 0 < sum(score.rescored for score in guarded) < 100
    assert not any(score.rescored for score in plain)
    assert max(abs(a.raw_score - b) for a, b in zip(plain, exact, strict=True)) < 0.05


def test_reading_a_checkpoint_finds_its_architecture(checkpoint):
    """Sizes follow from the tensors and the configuration."""
    description = describe_checkpoint(checkpoint)
    vit = load_vit(checkpoint, description)
    assert (vit.image_px, vit.patch_px, vit.heads, vit.depth, vit.width) == (64, 16, 3, 3, 48)
    assert description.labels == ("NSFW", "SFW")


def test_full_disk_leaves_no_bundle_and_the_next_run_completes(checkpoint, tmp_path, monkeypatch):
    """Out of space in the middle: a specific message, nothing under the name, steps kept."""
    request = Request(model=str(checkpoint), models_folder=tmp_path, precision="fp32")
    write_bytes = Path.write_bytes

    def full(path, data):
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(BundleError, match=r"disk of .* is full.*run this again"):
            export_bundle(request)
    assert written_under(tmp_path) == []
    bundle = export_bundle(request)
    assert [path.name for path in written_under(tmp_path)] == [bundle.name]


def test_bundle_too_far_from_float32_is_refused(checkpoint, tmp_path, monkeypatch):
    """Parity beyond the limits: the figures are told and no bundle appears."""
    monkeypatch.setitem(LIMITS, "int8", (1e-6, 1e-6))
    request = Request(model=str(checkpoint), models_folder=tmp_path)
    with pytest.raises(BundleError, match=r"too far from .*limit 1e-06.*nothing was written"):
        export_bundle(request)
    assert written_under(tmp_path) == []


def written_under(folder):
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
