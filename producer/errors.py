"""The one exception tree, used on both sides of the queue; grouped by what happens next.

ModerationError
├── InvalidInput                  the caller's fault: the upload is rejected with `code`
│   ├── InvalidUpload             a malformed id, image reference, region or priority
│   │   ├── PrivateAddress        an image address in a private network that is not allow-listed
│   │   └── InsecureAddress       an image address with http:// outside of such a network
│   ├── ImageMissing              nothing is stored under the reference
│   ├── ImageChanged              other bytes than those that were scored
│   ├── ImageTooLarge             more bytes than the limit
│   ├── ImageBomb                 more pixels, frames or decoded bytes than the limit
│   ├── UnsupportedImage          not one of the formats on the allow-list
│   ├── CorruptImage              damaged, truncated or empty
│   └── ImageTooSlow              decoding took longer than the limit
├── Transient                     retried with backoff, then a dead letter
│   ├── StorageUnavailable        the image store or Redis does not answer
│   │   └── StorageMisconfigured  it is absent, empty or unreadable, or refuses our credentials
│   ├── DecoderUnavailable        no decoding process can be started, or the machine is too busy
│   ├── NeedsLonger               a first, short look was not enough: later, with the full limits
│   ├── ProviderUnavailable       a review provider is down, slow or overloaded
│   │   ├── ProviderRateLimited   a review provider says: too many requests
│   │   └── ProviderSilent        a review provider was asked and did not answer in time
│   ├── ProviderAnswerUnknown     a review provider's answer is not understood
│   ├── CallbackFailed            the web tier did not answer 2xx
│   ├── BrokerUnavailable         the message broker took no doorbell; nothing is lost by it
│   ├── QueueFull                 the backlog is above its limit; the caller tries again later
│   │   └── StorageFull           Redis' memory is nearly used up; what is left is for verdicts
│   └── LedgerUnavailable         the ledger's database does not answer; events wait in Redis
├── Permanent                     a dead letter at once, or `held` where a person can decide
│   ├── InferenceFailed           the model rejected a picture that decoded well
│   ├── ProviderRejectedImage     a review provider will never judge this picture: held
│   ├── ProviderMisconfigured     bad key, not activated, no quota: opens the breaker, alarms
│   ├── CallbackRefused           410 Gone, or a blocked address
│   └── WorkerKilled              the worker process died with this upload in its hands, again
└── UnknownUpload                 no record under this id

ConfigurationError                outside the tree on purpose: refuses to start, never retried
├── RedisUnreachable              Redis does not answer; whoever restarts programs tries again
├── BundleError                   a model bundle is missing, incomplete or altered
└── PolicyError                   a policy file is unreadable or contradicts itself
"""

from __future__ import annotations

from typing import ClassVar


class ModerationError(Exception):
    """Base of every error that a single upload or request can cause."""

    #: Stable, machine-readable name; written into records, dead letters and API answers.
    code: ClassVar[str] = "error"


class InvalidInput(ModerationError):
    """Raised when what the caller gave can never be moderated."""

    code = "invalid"


class InvalidUpload(InvalidInput):
    """Raised when an upload id, image reference, region or priority is malformed."""

    code = "invalid_upload"

    def __init__(self, message: str, *, field: str = "upload_id") -> None:
        super().__init__(message)
        self.field = field


class PrivateAddress(InvalidUpload):
    """Raised when an image address leads into a private network that is not allow-listed."""

    code = "private_address"

    def __init__(self, message: str, *, field: str = "image") -> None:
        super().__init__(message, field=field)


class InsecureAddress(InvalidUpload):
    """Raised when an image would cross the public internet over plain http."""

    code = "insecure_address"

    def __init__(self, message: str, *, field: str = "image") -> None:
        super().__init__(message, field=field)


class ImageMissing(InvalidInput):
    """Raised when nothing is stored under an image reference."""

    code = "missing"


class ImageChanged(InvalidInput):
    """Raised when a reference leads to other bytes than those that the model has scored."""

    code = "changed"


class ImageTooLarge(InvalidInput):
    """Raised when an image has more bytes than allowed."""

    code = "too_large"


class ImageBomb(InvalidInput):
    """Raised when an image would decode to more pixels or frames than allowed."""

    code = "too_many_pixels"


class UnsupportedImage(InvalidInput):
    """Raised when the content is not one of the image formats on the allow-list."""

    code = "unsupported"


class CorruptImage(InvalidInput):
    """Raised when an image is damaged, truncated or empty."""

    code = "damaged"


class ImageTooSlow(InvalidInput):
    """Raised when an image could not be decoded within the time allowed."""

    code = "too_slow"


class Transient(ModerationError):
    """Raised when the same step may succeed later."""

    code = "transient"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageUnavailable(Transient):
    """Raised when the image store or Redis does not answer."""

    code = "storage_unavailable"


class StorageMisconfigured(StorageUnavailable):
    """Raised when the image store is not what it should be, which is no upload's fault.

    It is absent, empty at its root or unreadable, or refuses our credentials.
    """

    code = "storage_misconfigured"


class DecoderUnavailable(Transient):
    """Raised when no decoding process can be started or kept alive; the picture is not at fault."""

    code = "decoder_unavailable"


class NeedsLonger(Transient):
    """Raised when a picture needs more than the first, short look; it waits for a longer one."""

    code = "needs_longer"


class ProviderUnavailable(Transient):
    """Raised when a review provider is down, slow or overloaded."""

    code = "provider_unavailable"


class ProviderRateLimited(ProviderUnavailable):
    """Raised when a review provider asks for fewer requests."""

    code = "provider_rate_limited"


class ProviderSilent(ProviderUnavailable):
    """Raised when a review provider was asked and did not answer in time; it may bill the call."""

    code = "provider_silent"


class ProviderAnswerUnknown(Transient):
    """Raised when a review provider answers something that is not understood."""

    code = "provider_answer_unknown"


class CallbackFailed(Transient):
    """Raised when the web tier does not answer a callback with 2xx."""

    code = "callback_failed"

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


class BrokerUnavailable(Transient):
    """Raised when the message broker does not take a doorbell; a worker's ticker rings later."""

    code = "broker_unavailable"


class QueueFull(Transient):
    """Raised when the backlog is above its limit; nothing was accepted."""

    code = "queue_full"


class StorageFull(QueueFull):
    """Raised when Redis has too little memory left for more uploads; nothing was accepted."""

    code = "storage_full"


class LedgerUnavailable(Transient):
    """Raised when the ledger's database does not answer or refuses; nothing was written."""

    code = "ledger_unavailable"


class Permanent(ModerationError):
    """Raised when trying again cannot help."""

    code = "permanent"


class InferenceFailed(Permanent):
    """Raised when the model rejects a picture that decoded well."""

    code = "inference_failed"


class ProviderRejectedImage(Permanent):
    """Raised when a review provider will never judge this picture; a person must."""

    code = "provider_rejected_image"


class ProviderMisconfigured(Permanent):
    """Raised when a review provider refuses us: bad key, not activated, no quota left."""

    code = "provider_misconfigured"


class CallbackRefused(Permanent):
    """Raised when a callback can never be delivered: 410 Gone, or a blocked address."""

    code = "callback_refused"

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        #: The server itself said that it wants no more callbacks.
        self.gone = gone


class WorkerKilled(Permanent):
    """Raised when the worker process died several times with this upload in its hands."""

    code = "worker_killed"


class UnknownUpload(ModerationError):
    """Raised when no record exists under an upload id."""

    code = "unknown_upload"


class ConfigurationError(Exception):
    """Raised when the program cannot start as configured; the message says what to change."""


class RedisUnreachable(ConfigurationError):
    """Raised when no Redis answers where the configuration says; it may only not be up yet."""


class BundleError(ConfigurationError):
    """Raised when a model bundle is missing, incomplete or altered."""


class PolicyError(ConfigurationError):
    """Raised when a policy file is unreadable or contradicts itself."""
