"""What people did, kept for the console's activity page and sent to the ledger.

Keys, behind the store's prefix:

    audit    stream    action, item, at, by, address, outcome; the newest `MAX_AUDIT`
"""

from __future__ import annotations

import json
from typing import Any

from producer.store import Store

#: Entries that the activity page can go back to; the ledger keeps them all.
MAX_AUDIT = 10_000


def audit(
    store: Store, *, by: str, action: str, item: str, outcome: str, address: str = ""
) -> None:
    """Note what somebody did.

    Args:
        store: where it is kept.
        by: the user of the console or of the machine.
        action: a word for it.
        item: an upload id, a callback's item or a name.
        outcome: what came of it, in words.
        address: where the browser was; empty for the command line.
    """
    detail = {"by": by, "address": address, "outcome": outcome}
    entry: dict[Any, Any] = {
        "action": action,
        "item": item,
        "at": f"{store.now():.6f}",
        **detail,
    }
    pipe = store.redis.pipeline()
    pipe.xadd(store.key("audit"), entry, maxlen=MAX_AUDIT, approximate=True)
    pipe.xadd(
        store.key("events"),
        {
            "kind": "audit",
            "upload_id": item.rpartition("#")[0] or item,
            "seq": 0,
            "from": "",
            "to": action[:16],
            "at": entry["at"],
            "detail": json.dumps(detail),
        },
    )
    pipe.execute()
