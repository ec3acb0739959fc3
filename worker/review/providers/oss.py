"""What both adapters of Alibaba Cloud share: its temporary OSS bucket, and where its regions lie.

Neither of its moderation APIs takes bytes inline: both hand out short-lived keys for a bucket of
theirs. The keys are kept until shortly before they end.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable

import oss2
import requests

from producer.contract import Region
from producer.errors import ModerationError, ProviderMisconfigured, ProviderUnavailable
from producer.texts import say
from worker.review.providers.wire import current_call, requests_adapter

#: Seconds before their end at which keys are no longer used.
KEY_MARGIN_S = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemporaryKeys:
    """Leave to write into a bucket of Alibaba Cloud's.

    Args:
        expires_at: seconds since the epoch.
        endpoint: host, or URL for a stub.
        folder: what object names must begin with, as given.
    """

    key_id: str
    key_secret: str = dataclasses.field(repr=False)
    token: str = dataclasses.field(repr=False)
    expires_at: float
    endpoint: str
    bucket: str
    folder: str


class TemporaryBucket:
    """Uploads pictures, renewing the keys by `fetch_keys` when needed; safe for many threads."""

    def __init__(self, provider: str, fetch_keys: Callable[[], TemporaryKeys]) -> None:
        self._provider = provider
        self._fetch_keys = fetch_keys
        self._lock = threading.Lock()
        self._keys: TemporaryKeys | None = None
        self._session = oss2.Session(adapter=requests_adapter(requests))
        logging.getLogger("oss2").setLevel(logging.CRITICAL)

    def put(self, jpeg: bytes) -> tuple[str, str]:
        """Store one picture.

        Returns:
            (bucket, object name).

        Raises:
            ProviderUnavailable: the bucket does not take it; nothing was judged or billed.
            ProviderMisconfigured: the keys could not be had.
        """
        keys = self._current_keys()
        name = f"{keys.folder}{uuid.uuid4()}.jpg"
        bucket = oss2.Bucket(
            oss2.StsAuth(keys.key_id, keys.key_secret, keys.token),
            keys.endpoint if "://" in keys.endpoint else f"https://{keys.endpoint}",
            keys.bucket,
            session=self._session,
            enable_crc=False,
        )
        try:
            bucket.put_object(name, jpeg, headers={"Content-Type": "image/jpeg"})
        except oss2.exceptions.ServerError as error:
            self._forget(keys)
            raise ProviderUnavailable(
                say(
                    "{provider}: its temporary bucket refused the picture ({status} {code})",
                    provider=self._provider,
                    status=error.status,
                    code=error.code,
                )
            ) from None
        except (oss2.exceptions.OssError, ModerationError):
            # Whatever broke here, nothing was judged, and so nothing is billed.
            current_call().failure = None
            raise ProviderUnavailable(
                say("{provider}: its temporary bucket cannot be reached", provider=self._provider)
            ) from None
        return keys.bucket, name

    def _current_keys(self) -> TemporaryKeys:
        with self._lock:
            if self._keys is None or self._keys.expires_at - KEY_MARGIN_S < time.time():
                self._keys = self._fetch_keys()
                if self._keys.expires_at < time.time():
                    self._keys = None
                    raise ProviderMisconfigured(
                        say(
                            "{provider} gave keys that have ended already: set this host's clock",
                            provider=self._provider,
                        )
                    )
            return self._keys

    def _forget(self, keys: TemporaryKeys) -> None:
        with self._lock:
            if self._keys is keys:
                self._keys = None


def aliyun_home(region: str) -> Region:
    """Where a region of Alibaba Cloud lies; Hong Kong is not mainland."""
    is_mainland = region.startswith("cn-") and region != "cn-hongkong"
    return Region.DOMESTIC if is_mainland else Region.OVERSEAS
