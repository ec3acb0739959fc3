"""What a release promises: a light producer, known licences, valid deployment files."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from producer.cli import COMMANDS
from scripts import list_licences
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))
MANIFESTS = [
    document
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def analyze() -> str:
    """The path of systemd-analyze; the test is skipped, but not in CI, where there is none."""
    program = shutil.which("systemd-analyze")
    if program is None:
        message = "systemd-analyze is not installed; on Debian: apt-get install systemd"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return program


def test_the_producer_alone_installs_nothing_heavy() -> None:
    """A web tier gets neither arrays nor models nor picture codecs nor a database layer."""
    found = set(list_licences.closure([]))
    assert "celery" in found
    assert not found & {
        "numpy",
        "onnxruntime",
        "pillow",
        "pi-heif",
        "sqlalchemy",
        "fastapi",
        "boto3",
    }


def test_every_licence_is_known_and_none_is_refused() -> None:
    """Of everything that the extra `all` brings."""
    licences = {name: list_licences.licence_of(name) for name in list_licences.closure(["all"])}
    assert len(licences) > 50
    assert [name for name, licence in licences.items() if not licence] == []
    assert [n for n, licence in licences.items() if list_licences.is_refused(licence)] == []


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("GPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-3.0-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("MIT", False),
    ],
)
def test_which_licences_are_refused(licence: str, refused: bool) -> None:
    """The Lesser GPL may be imported as it is; the GPL may not."""
    assert list_licences.is_refused(licence) is refused


def test_compose_is_valid() -> None:
    """By the Compose specification's own schema."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    result = subprocess.run(
        [*command, str(ROOT / "docker-compose.yml")], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_compose_starts_what_exists_and_locks_it_down() -> None:
    """Our own services: known commands, read-only, without capabilities, limited, checked."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for name in ("worker", "io", "api"):
        service = services[name]
        assert service["command"][0] in COMMANDS
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["mem_limit"]
        assert service["healthcheck"]["test"]
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["mem_limit"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    # As root without DAC_OVERRIDE the image's entry point fails at its second start.
    assert services["redis"]["user"] == "999:1000"
    assert "cap_add" not in services["redis"]
    assert services["api"]["profiles"] == ["console"]
    assert services["rabbitmq"]["profiles"] == ["rabbitmq"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_start_what_exists_and_are_hardened(unit: Path) -> None:
    """As an unprivileged user, without capabilities, with a read-only system."""
    text = unit.read_text()
    for line in (
        "User=avatarmod",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "MemoryDenyWriteExecute=yes",
        "SystemCallFilter=@system-service",
    ):
        assert line in text.splitlines()
    command = re.search(r"^ExecStart=/opt/avatarmod/bin/(\S+) (\S+)", text, re.MULTILINE)
    assert command is not None
    assert command[1] != "avatarmod" or command[2] in COMMANDS


def test_manifests_name_settings_and_commands_that_exist() -> None:
    """A wrong name would be ignored in silence."""
    for manifest in MANIFESTS:
        if manifest["kind"] == "ConfigMap":
            names = {name.removeprefix("AVATARMOD_").lower() for name in manifest["data"]}
            assert names - set(WorkerSettings.model_fields) == {"secrets_folder"}
        if manifest["kind"] == "Deployment":
            pod = manifest["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            for container in pod["containers"]:
                assert container["args"][0] in COMMANDS
                assert container["securityContext"]["readOnlyRootFilesystem"] is True
    scaled = next(m for m in MANIFESTS if m["kind"] == "ScaledObject")
    target = scaled["spec"]["scaleTargetRef"]["name"]
    assert any(m["kind"] == "Deployment" and m["metadata"]["name"] == target for m in MANIFESTS)
    assert "avatarmod_oldest_seconds" in scaled["spec"]["triggers"][0]["metadata"]["query"]


def test_manifests_follow_kubernetes_schemas() -> None:
    """Strictly: a field that Kubernetes does not know is an error."""
    known = [m for m in MANIFESTS if m["kind"] != "ScaledObject"]
    assert len(known) >= 9
    for manifest in known:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
    wrong = copy.deepcopy(next(m for m in known if m["kind"] == "Deployment"))
    wrong["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_the_scaled_object_follows_kedas_types() -> None:
    """Every field is one that KEDA knows, with a value of its type."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject

    manifest = next(m for m in MANIFESTS if m["kind"] == "ScaledObject")
    read = ScaledObject.model_validate(manifest)
    assert read.model_dump(by_alias=True, exclude_unset=True, mode="json") == manifest


def test_the_daemon_finds_no_mistake_in_the_units(tmp_path: Path) -> None:
    """By systemd-analyze verify, with programs where the units name them."""
    program = analyze()
    for name in ("avatarmod", "valkey-server"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for unit in [*UNITS, ROOT / "deploy" / "systemd" / "avatarmod.target"]:
        text = unit.read_text().replace("/opt/avatarmod/bin", str(tmp_path))
        (tmp_path / unit.name).write_text(text)
    files = [str(tmp_path / unit.name) for unit in UNITS]
    command = [program, "verify", "--man=no", *files, str(tmp_path / "avatarmod.target")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_exposed_little(unit: Path) -> None:
    """As docs/security.md says: at most 1.4 of 10, by systemd-analyze security."""
    command = [analyze(), "security", "--offline=true", "--no-pager", "--threshold=15", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the navigation; links and anchors between pages lead somewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for page in ROOT.glob("docs/*.md"):
        folder = "" if page.stem == "index" else page.stem
        assert (tmp_path / folder / "index.html").exists()


def test_every_extra_named_in_the_documents_exists() -> None:
    """Pip warns about an unknown extra and installs without it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("README*.md"), ROOT / "deploy" / "install.sh"]
    text = "".join(page.read_text("utf-8") for page in pages)
    named = re.findall(r"avatar-moderation\[([a-z0-9,-]+)\]", text)
    assert named
    extras = {extra for group in named for extra in group.split(",")}
    assert extras - set(project["optional-dependencies"]) == set()


def test_the_installer_is_a_program() -> None:
    """The shell can read it."""
    script = ROOT / "deploy" / "install.sh"
    result = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")


def test_the_lowest_versions_are_those_the_security_page_names() -> None:
    """What reads hostile bytes is never installed with a fault that is known."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [
        Requirement(need)
        for group in ("worker", "api")
        for need in project["optional-dependencies"][group]
    ]
    lowest = {
        need.name.lower(): part.version
        for need in needs
        for part in need.specifier
        if part.operator == ">="
    }
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    named = re.findall(r"^\| (\S+) \| ([0-9.]+) \|", page, re.MULTILINE)
    assert len(named) >= 4
    for name, version in named:
        assert lowest[name.lower()] == version
