"""What forgets uploads, put together for the command, the API and the workers."""

from __future__ import annotations

from producer.forget import Forgetter
from producer.images import Images
from producer.record.store import Store
from producer.safe_copies import SafeCopies
from producer.settings import Settings
from worker.ledger.lazy import LazyLedger


def make_forgetter(
    settings: Settings, store: Store, images: Images, ledger: LazyLedger
) -> Forgetter:
    """Raises ConfigurationError where the place of safe copies cannot be used."""
    copies = SafeCopies(settings) if settings.safe_copies else None
    return Forgetter(store, images, copies, ledger.eraser, has_ledger=settings.has_ledger)
