"""deploy/proxy: what nginx and Caddy make of our examples, in front of the real API."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn

from producer.web.users import Role, Users
from tests.integration.web.conftest import Serve, store_of, with_key
from tests.integration.web.test_console import PASSWORD, field
from tests.support import wait_until
from worker.commands.api import make_config

PROXY = Path(__file__).parents[3] / "deploy" / "proxy"
NAME = "moderation.example.org"
SITE = f"https://{NAME}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def changed(text: str, changes: dict[str, str]) -> str:
    """The example with this machine's places; each must be in it."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, api: int, port: int) -> list[str]:
    """What starts nginx with the example."""
    live = f"/etc/letsencrypt/live/{NAME}"
    site = changed(
        (PROXY / "nginx.conf").read_text(),
        {
            "listen 443 ssl;": f"listen {port} ssl;",
            "    listen [::]:443 ssl;\n": "",
            "listen 80;": f"listen 127.0.0.1:{free_port()};",
            "    listen [::]:80;\n": "",
            f"{live}/fullchain.pem": str(folder / "cert.pem"),
            f"{live}/privkey.pem": str(folder / "key.pem"),
            "http://127.0.0.1:8042": f"http://127.0.0.1:{api}",
        },
    )
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    file = folder / "nginx.conf"
    # Its children would be nobody, who may not look into this folder.
    user = "user root;\n" if os.geteuid() == 0 else ""
    file.write_text(
        f"{user}daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off;\n{paths}{site}}}\n"
    )
    words = ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(file)]
    subprocess.run([*words, "-t"], check=True, capture_output=True)
    return words


def caddy(folder: Path, api: int, port: int) -> list[str]:
    """What starts Caddy with the example."""
    words = ["caddy", "run", "--adapter", "caddyfile", "--config"]
    validate = ["caddy", "validate", *words[2:], str(PROXY / "Caddyfile")]
    env = {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    subprocess.run(validate, check=True, capture_output=True, env=env)
    tls = f"{SITE}:{port} {{\n\ttls {folder}/cert.pem {folder}/key.pem"
    site = changed(
        (PROXY / "Caddyfile").read_text(),
        {f"\n{NAME} {{": f"\n{tls}", "127.0.0.1:8042": f"127.0.0.1:{api}"},
    )
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    (folder / "Caddyfile").write_text(options + site)
    return [*words, str(folder / "Caddyfile")]


PROGRAMS = {"nginx": nginx, "caddy": caddy}


@contextlib.contextmanager
def running_api(serve: Serve) -> Iterator[tuple[int, str]]:
    """The API behind a socket, as the examples want it: its port and a key."""
    client = serve(api_trusted_proxies=("127.0.0.1",))
    token = with_key(client).headers["x-api-key"]
    Users(store_of(client)).save("operator", Role.OPERATOR, PASSWORD)
    settings = client.app.state.services.settings  # type: ignore[attr-defined]
    server = uvicorn.Server(make_config(client.app, settings))
    server.config.lifespan = "off"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        wait_until(lambda: server.started, 30, "the server listens")
        yield listening.getsockname()[1], token
        server.should_exit = True
        thread.join(20)


class Site:
    """The service as the world sees it, asked from one of this machine's addresses."""

    def __init__(self, port: int, authority: str, token: str) -> None:
        self._port, self._tls = port, ssl.create_default_context(cafile=authority)
        self.token = token

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client of its own; its name is the site's, whatever the port."""
        transport = httpx.HTTPTransport(local_address=address, verify=self._tls)
        client = httpx.Client(
            transport=transport, timeout=30, base_url=f"https://{NAME}:{self._port}"
        )
        return client

    def status_of(self, length: int) -> int:
        """The status of an upload, of which a proxy need not want everything."""
        link = http.client.HTTPSConnection(NAME, self._port, timeout=30, context=self._tls)
        link.putrequest("POST", "/v1/uploads")
        for name, value in (("x-api-key", self.token), ("content-length", str(length))):
            link.putheader(name, value)
        link.putheader("content-type", "multipart/form-data; boundary=x")
        link.endheaders()
        with contextlib.suppress(OSError):
            for _ in range(length // 1_000_000):
                link.send(b"\xff" * 1_000_000)
        with contextlib.closing(link):
            return link.getresponse().status


@pytest.fixture(params=sorted(PROGRAMS))
def site(
    request: pytest.FixtureRequest, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """The example's program between the world and the API."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed (Debian: apt install nginx-light caddy)")
    folder = tmp_path / request.param
    folder.mkdir()
    subject = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    made = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *subject, *made],
        check=True,
        capture_output=True,
    )
    found = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **more: found("127.0.0.1" if host == NAME else host, *rest, **more),
    )
    with running_api(serve) as (api, token):
        port = free_port()
        words = PROGRAMS[request.param](folder, api, port)
        env = {"HOME": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin"}
        with (folder / "log").open("wb") as log:
            program = subprocess.Popen(words, env=env, stderr=log, stdout=log)
        try:
            site = Site(port, str(folder / "cert.pem"), token)
            with site.client() as client:
                wait_until(lambda: answers(client), 30, "the proxy answers")
            yield site
        finally:
            program.terminate()
            program.wait(20)


def answers(client: httpx.Client) -> bool:
    """Whether the whole way is open."""
    with contextlib.suppress(httpx.TransportError):
        return client.get("/healthz").status_code == 200
    return False


def test_pictures_pass_and_what_is_too_large_does_not(site: Site) -> None:
    """Beyond a proxy's own limit of 1 MB, and beyond ours."""
    with site.client() as client:
        client.headers["x-api-key"] = site.token
        form = {"upload_id": "a"}
        large = client.post("/v1/uploads", data=form, files={"image": b"\xff" * 3_000_000})
        assert large.status_code == 202, large.text
        assert large.json()["state"] == "queued"
        waiting = client.get("/v1/avatars/a", params={"wait": 1})
        assert waiting.json()["data"]["state"] == "queued"
    assert site.status_of(34_000_000) == 413


def test_people_sign_in_and_their_cookie_is_for_tls_only(site: Site) -> None:
    """The console knows by the forwarded scheme that the browser came by TLS."""
    with site.client() as client:
        page = client.get("/console/sign-in")
        data = {"form_token": field(page.text, "form_token"), "name": "operator", "next": ""}
        data["password"] = PASSWORD
        port = client.base_url.port
        for origin, status in (("https://elsewhere.example", 403), (SITE, 303)):
            headers = {"origin": origin, "host": NAME}
            answer = client.post("/console/sign-in", data=data, headers=headers)
            assert answer.status_code == status, (port, answer.text)
        assert "secure" in answer.headers["set-cookie"].lower()
        assert client.get("/console/activity").status_code == 200


def test_the_client_is_who_connected_and_not_who_it_says_to_be(site: Site) -> None:
    """Wrong keys of one address do not shut out another, and no header makes up a new one."""
    with site.client("127.0.0.7") as client:
        for number in range(40):
            headers = {"x-api-key": "avm_wrong", "x-forwarded-for": f"198.51.100.{number}"}
            answer = client.get("/v1/avatars/a", headers=headers)
        assert answer.status_code == 429
    with site.client("127.0.0.8") as client:
        headers = {"x-api-key": "avm_wrong"}
        assert client.get("/v1/avatars/a", headers=headers).status_code == 401


def test_metrics_are_not_shown_to_the_world(site: Site) -> None:
    """Not even to a key that may read them."""
    with site.client("127.0.0.7") as client:
        assert client.get("/metrics", headers={"x-api-key": site.token}).status_code == 403
