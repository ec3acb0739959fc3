"""What a release promises: a light producer, known licences, valid deployment files."""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import json
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
from packaging.utils import canonicalize_name

from producer.cli import COMMANDS
from producer.installed import how_to_install
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
#: How an extra is added on a server, and in a clone.
SERVER = "sudo deploy/install.sh --extras all,tuning"
CLONE = f"{sys.executable} -m pip install -c requirements.lock -e '.[all,tuning]'"
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


def brought_by(*extras: str) -> set[str]:
    """Names of the installed packages that the project needs with these extras."""
    waiting, seen = [("avatar-moderation", extra) for extra in ("", *extras)], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        seen.add((name, extra))
        for need in map(Requirement, needs):
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(need.name), more) for more in ("", *need.extras)]
    return {name for name, _ in seen} - {"avatar-moderation"}


@functools.cache
def licences() -> dict[str, str]:
    """What pip-licenses reads of every installed package."""
    command = [
        str(Path(sys.executable).parent / "pip-licenses"),
        "--with-system",
        "--from=mixed",
        "--format=json",
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    return {canonicalize_name(row["Name"]): row["License"] for row in json.loads(answer.stdout)}


#: Not to be linked into a service that others install without a thought; the Lesser GPL asks
#: nothing of a program that imports a library as it is.
REFUSED = re.compile(
    r"\bA?GPL\b|(?<!Lesser )General Public License|Affero|UNKNOWN|^$", re.IGNORECASE
)


def test_the_producer_alone_installs_nothing_heavy() -> None:
    """A web tier gets neither arrays nor models nor picture codecs nor a database layer."""
    found = brought_by()
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


@pytest.mark.process
def test_every_licence_is_known_and_none_is_refused() -> None:
    """Of everything that any extra for a running service brings."""
    names = brought_by("all", "tracing", "postgresql", "mysql", "parquet", "export-light")
    assert len(names) > 50
    assert {n: licences()[n] for n in names if REFUSED.search(licences()[n])} == {}


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("GPL-3.0-only", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-3.0-or-later", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GNU General Public License v3 (GPLv3)", True),
        ("UNKNOWN", True),
        ("MIT", False),
    ],
)
def test_which_licences_are_refused(licence: str, refused: bool) -> None:
    """The Lesser GPL may be imported as it is; the GPL may not."""
    assert bool(REFUSED.search(licence)) is refused


@pytest.mark.process
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
        assert "profiles" not in service, "it starts without being asked for"
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["mem_limit"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    # As root without DAC_OVERRIDE the image's entry point fails at its second start.
    assert services["redis"]["user"] == "999:1000"
    assert "cap_add" not in services["redis"]
    # `docker compose up -d` starts everything that the first verdict needs, the API too.
    assert {n for n, service in services.items() if "profiles" not in service} == {
        "redis",
        "worker",
        "io",
        "api",
    }
    assert services["rabbitmq"]["profiles"] == ["rabbitmq"]
    # A password without a default: compose stops and says which one to set.
    password = "${REDIS_PASSWORD:?set REDIS_PASSWORD in .env}"
    command = services["redis"]["command"]
    assert command[command.index("--requirepass") + 1] == password


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


@pytest.mark.process
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


@pytest.mark.process
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_are_exposed_little(unit: Path) -> None:
    """As docs/security.md says: at most 1.4 of 10, by systemd-analyze security."""
    command = [analyze(), "security", "--offline=true", "--no-pager", "--threshold=15", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-300:] + result.stderr


@pytest.mark.process
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
    pages += [*ROOT.glob("producer/**/*.py"), *ROOT.glob("worker/**/*.py")]
    text = "".join(page.read_text("utf-8") for page in pages)
    named = re.findall(
        r"""\.\[([a-z0-9,-]+)\]|--extras (all[a-z,-]*[a-z])|how_to_install\(["']([a-z0-9-]+)""",
        text,
    )
    assert named
    extras = {extra for groups in named for extra in "".join(groups).split(",")}
    assert {"all", "tuning", "export-light"} <= extras
    assert extras - set(project["optional-dependencies"]) == set()


def test_no_page_and_no_message_asks_an_index_for_this_package() -> None:
    """It is not published there: `pip install avatar-moderation[...]` would find nothing."""
    pages = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("README*.md")]
    pages += [*ROOT.glob("producer/**/*.py"), *ROOT.glob("worker/**/*.py")]
    found = [
        p for p in pages if re.search(r"install\s+['\"]?avatar-moderation", p.read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("prefix", "here", "said"),
    [
        ("/opt/avatarmod/releases/1", "/opt/avatarmod/releases/1/lib/producer/extras.py", SERVER),
        ("/home/ann/clone/.venv", str(ROOT / "producer/extras.py"), f"cd {ROOT} && {CLONE}"),
        (
            "/home/ann/site",
            "/home/ann/site/lib/producer/extras.py",
            "'/path/of/the/clone[all,tuning]'",
        ),
    ],
    ids=["server", "clone", "elsewhere"],
)
def test_what_is_missing_is_said_with_the_command_that_adds_it(
    prefix: str, here: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the way in which it was installed here."""
    monkeypatch.setattr(sys, "prefix", prefix)
    monkeypatch.setattr("producer.installed.__file__", here)
    assert said in how_to_install("tuning")
    assert "all,all" not in how_to_install("all")


def test_the_installed_command_runs_as_the_service() -> None:
    """Its user, its file of settings, each secret under the name that systemd gives it."""
    script = (ROOT / "deploy" / "avatarmod").read_text()
    assert os.access(ROOT / "deploy" / "avatarmod", os.X_OK)
    assert "AVATARMOD_ENV_FILE=$etc/avatarmod.env" in script
    assert '"$secrets/avatarmod_${file##*/}"' in script
    assert "setpriv --reuid=avatarmod" in script
    installer = (ROOT / "deploy" / "install.sh").read_text()
    assert "readonly COMMAND=/usr/local/bin/avatarmod" in installer


@pytest.mark.process
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
