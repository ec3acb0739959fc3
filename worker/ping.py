"""Does anybody read callbacks there? A signed ping, and what its answer means.

A receiver proves that it read the ping: it answers 2xx with the ping's nonce in the body, or 204
with the header `Avatarmod-Receiver`. Any other 2xx may come from a web server that answers its
front page to everything; it would take every verdict and lose it.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
import ssl
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import httpx
from pydantic import SecretStr

from producer.contract import PING_TYPE, RECEIVER_HEADER, public_url
from producer.http_guard import BlockedAddress, check_reachable, guarded_client
from producer.networks import IPNetwork
from producer.record.outbox import document
from worker.callback import beginning_of, headers_of, is_page, new_secret

#: Bytes of an answer in which the nonce is looked for.
MAX_ANSWER_BYTES = 65_536


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a ping told."""

    ok: bool
    message: str
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes
    nonce: str

    @property
    def was_read(self) -> bool:
        """Whether a receiver of ours answered."""
        if self.status == 204:
            return bool(self.headers.get(RECEIVER_HEADER))
        return 200 <= self.status < 300 and self.nonce.encode() in self.body


class Pinger:
    """Pings receivers as callbacks would be sent to them.

    Args:
        secrets: that callbacks are signed with.
        allowed: private networks that may be reached.
        timeout_s: for one ping.
        with_hub_signature: as `CallbackSender.hub_signature`.
    """

    def __init__(
        self,
        secrets: Sequence[SecretStr],
        *,
        allowed: Sequence[IPNetwork],
        timeout_s: float,
        with_hub_signature: bool = False,
    ) -> None:
        self._secrets = secrets
        self._allowed = allowed
        self._timeout_s = timeout_s
        self._with_hub_signature = with_hub_signature

    def ping(self, url: str) -> list[Finding]:
        """What came of it; all is well when every finding is `ok`."""
        try:
            return list(self._findings(url))
        except BlockedAddress as error:
            return [Finding(False, str(error), _OURS)]
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            return [Finding(False, f"not an address: {error}", "write https://host/path")]
        except httpx.HTTPError as error:
            return [_no_answer(error)]

    def _findings(self, url: str) -> Iterator[Finding]:
        answer = self._post(url, self._secrets)
        yield _judge(answer)
        if not self._secrets:
            message = "callbacks are not signed: anybody who knows the address can send verdicts"
            yield Finding(False, message, "set AVATARMOD_CALLBACK_SECRETS, here and there")
        elif answer.was_read:
            forged = self._post(url, [new_secret()])
            yield (
                Finding(True, f"refused a false signature ({forged.status})")
                if not 200 <= forged.status < 300
                else Finding(
                    False,
                    f"takes callbacks with a false signature, too ({forged.status})",
                    "let the receiver verify webhook-signature with AVATARMOD_CALLBACK_SECRETS",
                )
            )

    def _post(self, url: str, secrets_: Sequence[SecretStr]) -> _Answer:
        now, nonce = datetime.now(UTC), secrets.token_hex(16)
        payload = json.dumps(document({"nonce": nonce}, now.timestamp(), PING_TYPE))
        headers = headers_of(
            f"msg_ping_{nonce}",
            payload,
            secrets_,
            now,
            with_hub_signature=self._with_hub_signature,
        )
        with (
            guarded_client(allowed=self._allowed, timeout_s=self._timeout_s) as client,
            client.stream("POST", url, content=payload, headers=headers) as answer,
        ):
            body = beginning_of(answer, MAX_ANSWER_BYTES)
            return _Answer(answer.status_code, answer.headers, body, nonce)


def _judge(answer: _Answer) -> Finding:
    status = answer.status
    if answer.was_read:
        return Finding(True, f"read the ping and said so ({status})")
    if 200 <= status < 300:
        if is_page(answer.headers, answer.body):
            return Finding(
                False,
                f"answers {status} with a web page: nothing there reads callbacks, verdicts would "
                "be lost",
                "correct the path; a WordPress without pretty permalinks wants "
                "/index.php?rest_route=/...",
            )
        return Finding(
            False,
            f"answers {status}, but not as a receiver that read the ping",
            "let it answer pings, see docs/integration.md, or look whether the path is right",
        )
    if 300 <= status < 400:
        place = public_url(answer.headers.get("location", ""))
        return Finding(
            False,
            f"answers {status} and sends us on to {place or 'nowhere'}: callbacks do not follow",
            "set AVATARMOD_CALLBACK_URL to the last address, with https:// and every slash",
        )
    return Finding(False, f"answers {status}", _FIXES.get(status, "read the receiver's log"))


#: What an answer's status usually means.
_FIXES = {
    400: "it does not take the ping's form; callbacks are JSON, see docs/integration.md",
    401: "the secret there differs from AVATARMOD_CALLBACK_SECRETS, or a clock is minutes off",
    403: "the secret there differs from AVATARMOD_CALLBACK_SECRETS, or a firewall refuses POST",
    404: "correct the path; a WordPress without pretty permalinks wants /index.php?rest_route=/...",
    405: "the path takes no POST; correct it",
    410: "410 Gone switches callbacks to this server off; correct the path",
    413: "a limit on bodies there is under 1 kB; callbacks have up to 20 kB",
}

#: What to do where a receiver is in a network that must be named.
_OURS = "if it is yours, list it, for the workers and for hosts that enqueue"


def _no_answer(error: httpx.HTTPError) -> Finding:
    if isinstance(error, httpx.TimeoutException):
        return Finding(False, "no answer in time", "a firewall may drop us; try it with curl")
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and len(causes) < 10:
        causes.append(cause)
    if any(isinstance(one, ssl.SSLError) for one in causes):
        return Finding(
            False,
            f"its certificate is not trusted: {error}",
            "for an authority of your own set AVATARMOD_CA_FILE",
        )
    return Finding(False, f"no answer: {error}", "start it, or correct the address")


def unreachable(url: str, allowed: Sequence[IPNetwork]) -> str:
    """Why callbacks to a URL would be refused before they are sent; empty where they are not."""
    try:
        place = httpx.URL(url)
        port = place.port or (443 if place.scheme == "https" else 80)
        check_reachable(place.host, port, allowed, timeout_s=2.0)
    except (httpx.InvalidURL, httpx.RequestError) as error:
        return str(error)
    return ""


def all_ok(findings: Iterable[Finding]) -> bool:
    """Whether verdicts would arrive and be believed."""
    return all(finding.ok for finding in findings)
