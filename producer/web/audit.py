"""What people did, kept for the console's activity page and sent to the ledger."""

from __future__ import annotations

from producer.record.store import Store


def audit(
    store: Store, *, by: str, action: str, item: str, outcome: str, address: str = ""
) -> None:
    """Note what somebody did; see `Events.audit`."""
    store.events.audit(by=by, action=action, item=item, outcome=outcome, address=address)
