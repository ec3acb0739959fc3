"""Several hosts: workers share the work, a host that is cut off loses and doubles nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from producer.contract import Stage
from producer.enqueue import Upload
from producer.errors import ModerationError
from producer.record.store import Store
from tests.acceptance.brokers import RABBITMQ_SERVER, RabbitMQ, SentinelGroup
from tests.acceptance.conftest import SECRET, check_outcomes, eventually, uploads
from tests.acceptance.hosts import Fleet, Lan, PictureServer, Valkey, why_not
from worker.demo.webhook_receiver import Receiver

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@dataclasses.dataclass
class Site:
    """A network with a web tier on it: it has the pictures and hears of the verdicts."""

    lan: Lan
    web_tier: Receiver
    pictures: PictureServer
    make_folder: Callable[[str], Path]

    def fleet(self, name: str, **env: str) -> Fleet:
        """Workers that nothing has been started of yet."""
        network = f"{self.lan.address}/32"
        folder = self.make_folder(name)
        return Fleet(folder, self.web_tier, network, AVATARMOD_NAMESPACE=name, **env)

    def enqueue(self, fleet: Fleet, prefix: str, count: int) -> dict[str, str]:
        """Uploads of every outcome, until they are accepted; upload id to what must come of it."""
        expected, waiting = {}, []
        for upload_id, data, outcome in uploads(prefix, count):
            if data is not None:
                self.pictures.pictures[upload_id] = data
            expected[upload_id] = outcome
            waiting.append(Upload(upload_id, f"{self.pictures.url}/{upload_id}"))
        with fleet.producer() as producer:

            def all_accepted() -> bool:
                answers = producer.enqueue_many(waiting)
                return not any(isinstance(answer, ModerationError) for answer in answers)

            eventually(all_accepted, "the uploads are accepted")
        return expected


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One network for all tests."""
    with (
        Lan() as lan,
        Receiver(SecretStr(SECRET), address=lan.address) as web_tier,
        PictureServer(lan.address) as pictures,
    ):
        yield Site(lan, web_tier, pictures, tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def valkey(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey on a host of its own."""
    with Valkey(tmp_path_factory.mktemp("valkey"), site.lan.host("store")) as server:
        yield server


@pytest.fixture(scope="module")
def fleet(site: Site, valkey: Valkey) -> Iterator[Fleet]:
    """Two moderate workers and an io worker, each on a host of its own."""
    with site.fleet("fleet", AVATARMOD_REDIS_URL=valkey.url) as fleet:
        host = site.lan.host
        fleet.start(one=host("box1"), two=host("box2"), io=host("box3"))
        yield fleet


def decided(fleet: Fleet, *names: str) -> list[str]:
    """Uploads that these workers decided, one entry for each time."""
    return [upload_id for name in names for upload_id in fleet.said(name, "verdict_reached")]


def test_workers_on_several_hosts_share_the_work(site: Site, fleet: Fleet) -> None:
    """Each of two hosts decides some; every upload has one verdict and is told of once."""
    expected = site.enqueue(fleet, "shared", 120)
    check_outcomes(fleet, site.web_tier, expected)
    assert sorted(decided(fleet, "one", "two")) == sorted(expected)
    with fleet.store() as store:
        hosts = {(fact["role"], fact["host"]) for fact in store.workers()}
    assert hosts == {("moderate", "box1"), ("moderate", "box2"), ("io", "box3")}
    while not (decided(fleet, "one") and decided(fleet, "two")):
        # One was so slow to wake up that nothing was left for it.
        more = site.enqueue(fleet, f"shared-{len(expected)}", 120)
        expected |= more
        check_outcomes(fleet, site.web_tier, more)


def test_a_host_cut_off_in_mid_batch_is_replaced_and_comes_back(site: Site, fleet: Fleet) -> None:
    """Another decides its uploads after the lease; what it decided late counts for nothing."""
    box = site.lan.host("box1")
    expected = site.enqueue(fleet, "cut", 64)
    with fleet.store() as store:

        def feed() -> None:
            if not store.waiting(Stage.MODERATE)["leased"]:
                expected.update(site.enqueue(fleet, f"cut-{len(expected)}", 64))

        token = _token_in_mid_batch(fleet, "one", store, feed)
        box.cut()
        time.sleep(0.2)  # What was on the wire arrives.
        held = _in_hand(store, token)
        assert held, "it was cut off with uploads in its hands"
        eventually(lambda: held <= set(decided(fleet, "two")), "another host decides them")
    assert fleet.processes["one"].poll() is None, "it lives"
    assert not held & set(decided(fleet, "one"))
    box.mend()
    eventually(lambda: fleet.said("one", "verdict_superseded"), "late verdicts are refused")
    assert set(fleet.said("one", "verdict_superseded")) <= held
    fleet.stop("two")
    after = site.enqueue(fleet, "after-cut", 8)
    eventually(lambda: set(after) <= set(decided(fleet, "one")), "the host goes on working")
    expected |= after
    check_outcomes(fleet, site.web_tier, expected)
    mine = [upload_id for upload_id in decided(fleet, "one", "two") if upload_id in expected]
    assert sorted(mine) == sorted(expected)


def _in_hand(store: Store, token: str) -> set[str]:
    """Uploads under a worker's lease."""
    holders: Any = store.redis.hgetall(store.key("holder", Stage.MODERATE))
    return {item for item, holder in holders.items() if holder == token}


def _token_in_mid_batch(fleet: Fleet, name: str, store: Store, feed: Callable[[], object]) -> str:
    """The token under which a worker holds several uploads just now, seen by what it decided."""
    seen: dict[str, str] = {}
    found: list[str] = []

    def holds_several() -> bool:
        feed()
        seen.update(store.redis.hgetall(store.key("holder", Stage.MODERATE)))  # type: ignore[arg-type]
        tokens = {seen[upload_id] for upload_id in decided(fleet, name) if upload_id in seen}
        found[:] = [token for token in tokens if len(_in_hand(store, token)) >= 8]
        return bool(found)

    eventually(holds_several, f"{name} is in the middle of a batch")
    return found[0]


def test_the_masters_host_is_cut_off_and_nothing_accepted_is_lost(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Three hosts with Redis and Sentinel: two elect a master, the third comes back to follow."""
    hosts = [site.lan.host(f"redis{number}") for number in (1, 2, 3)]
    servers = dict(zip(("one", "two", "three"), hosts, strict=True))
    sentinels = dict(zip(("s1", "s2", "s3"), hosts, strict=True))
    folder = tmp_path_factory.mktemp("sentinel")
    with (
        SentinelGroup(folder, servers, sentinels) as group,
        site.fleet(
            "sentinel", AVATARMOD_REDIS_URL=group.url, AVATARMOD_REDIS_REPLICAS="1"
        ) as fleet,
    ):
        host = site.lan.host
        fleet.start(one=host("box1"), two=host("box2"), io=host("box3"))
        expected = site.enqueue(fleet, "before-cut", 80)
        eventually(lambda: len(decided(fleet, "one", "two")) >= 5, "some are decided")
        hosts[0].cut()
        eventually(lambda: "master" in map(group.role, ("two", "three")), "another is promoted")
        # Two servers of three are enough to accept.
        expected |= site.enqueue(fleet, "while-cut", 20)
        eventually(lambda: set(expected) <= set(decided(fleet, "one", "two")), "all are decided")
        hosts[0].mend()
        eventually(lambda: group.role("one") == "slave", "the old master follows the new one")
        expected |= site.enqueue(fleet, "after-mend", 20)
        check_outcomes(fleet, site.web_tier, expected, exactly_once=False)


def test_doorbells_over_a_rabbitmq_on_a_host_of_its_own(
    site: Site, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Messages go over RabbitMQ, records over Redis, each on another host; work is shared."""
    if not RABBITMQ_SERVER.exists():
        pytest.skip("RabbitMQ is not installed; on Debian: apt install rabbitmq-server")
    with (
        RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), site.lan.host("rabbit")) as rabbitmq,
        site.fleet(
            "rabbit", AVATARMOD_REDIS_URL=valkey.url, AVATARMOD_BROKER_URL=rabbitmq.url
        ) as fleet,
    ):
        host = site.lan.host
        fleet.start(one=host("box1"), two=host("box2"), io=host("box3"))
        expected = site.enqueue(fleet, "rabbit", 40)
        check_outcomes(fleet, site.web_tier, expected)
        with fleet.store() as store:
            assert not list(store.redis.scan_iter("rabbit:celery:*")), "no message goes over Redis"
