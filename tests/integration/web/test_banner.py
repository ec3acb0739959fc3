"""What `avatarmod up` prints about itself when it is ready."""

from __future__ import annotations

import io

from rich.console import Console

from producer.connect import redis_client
from producer.record.store import Store
from tests.integration.web.conftest import Stack
from worker.commands.banner import print_banner


def test_a_worker_of_an_earlier_run_is_not_in_the_banner(stack: Stack) -> None:
    """Its last sign of life is still in Redis; the banner names the processes that run now."""
    client = redis_client(stack.supervisor.redis_url)
    store = Store(client)
    gone = {"name": "gone", "role": "api", "pid": 4_194_305, "url": "http://gone:1", "stages": []}
    store.show_life("api@gone:4194305", gone)
    try:
        facts = stack.supervisor.facts()
        shown = io.StringIO()
        print_banner(Console(file=shown, width=200), facts, stack.settings)
    finally:
        store.end_life("api@gone:4194305")
        client.close()
    assert {worker["role"] for worker in facts["workers"]} == {"moderate", "io", "api"}
    assert "4194305" not in shown.getvalue()
    assert "gone:1" not in shown.getvalue()
    assert stack.url in shown.getvalue()
