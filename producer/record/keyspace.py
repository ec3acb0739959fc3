"""Names of all keys in Redis. Every one is built here and nowhere else.

All stand behind the prefix `{namespace}:`; the braces keep them in one Redis Cluster slot. Names
and what is in them stay readable by the version before, so that both may run on the same data.

The record and what must still happen to it:

    avatar:<upload id>          hash    the record; expires `record_ttl_s` after it became final
    open:<state>                zset    ids in queued, reviewing, held, dead; score: since when
    due:<line>:<priority>       zset    items that wait for a worker; score: when they are due
    lease:<line>                zset    items in a worker's hands; score: when the lease runs out
    holder:<line>               hash    item -> token of the worker that has it
    crashes:<line>              hash    item -> how many holders died with it
    verdict:<sha256>:<...>      string  what was judged of this content so; `record_ttl_s`
    overrule:<sha256>           string  operators' words on this content, the last first; for ever
    data_set                    hash    id, born, floor, former ids, lost_at; for ever
    clock                       string  the time that the server told last, and our lead; for ever
    memory                      stream  decided contents with their prints; `memory_retention_days`
    memory:index                hash    content -> id of its entry in `memory`
    memory:seen:<sha256>        string  prints of a content (JSON); `record_ttl_s`
    memory:wanted               zset    ids whose pictures are to be printed; score: when
    memory:cleared:<sha256>     set     contents that people approved though they look like it
    memory:met                  zset    `<content> <id>`: what looked like what; an hour
    memory:alike:<sha256>       set     ids of uploads that looked like this; `record_ttl_s`
    memory:origin               string  names this memory; for ever
    memory:swept                string  somebody has looked for entries to forget; an hour
    copies                      zset    ids with a safe copy; score: when its time may be over
    copies:promised             string  present: approvals wait for a safe copy; for ever
    copies:swept                string  somebody has looked for copies to remove; an hour
    audits                      zset    approvals drawn for an audit that a person must look at;
                                        score: since when
    audits:draw                 hash    share: of the approvals; key: of the hash that draws them
    audits:explicit             zset    audits that found something; score: when; a week
    doubted:<sha256>            string  an audit found this content explicit; `record_ttl_s`
    dead                        zset    dead letters; score: when they were buried
    dead:<item>                 hash    letter (JSON), at; after a replay kept `record_ttl_s`

Which have the same picture:

    same:<sha256>:waiting       set     ids of uploads with this content that are held or reviewed
    same:<sha256>:decided       set     ids that are approved or blocked; `record_ttl_s`
    same:indexed                string  how far uploads of former versions are in these lists, or
                                        `done`; for ever
    settling                    hash    sha256 -> a decision that others follow yet (JSON)

Who looks at it:

    appeals                     zset    held ids whose owner objected to a block; score: since when
    blocked:<name>              set     ids of a person's blocked uploads; `record_ttl_s`

    claims                      hash    id -> the person who has the picture in front of them
    claims:until                zset    ids; score: when the claim ends by itself

Whose it is, and what is to be forgotten:

    subject:<name>              set     ids of uploads of one person; the name is a keyed hash
    subjects                    zset    `<name> <id>`; score: when its time may be over
    subjects:swept              string  somebody has looked for those that are over; an hour
    forgotten                   zset    ids whose traces are looked for again; score: when
    forgotten:facts             hash    id -> what there is to remove outside of Redis (JSON)
    hash_key                    string  secret of keyed hashes; for ever

Who hears of it:

    callback:<id>#<seq>         hash    one callback; deleted when delivered
    callback_default            string  the address of uploads that name none; for ever
    endpoints                   set     callback endpoints; each is the line callback:<name>
    endpoint:<name>             hash    server, failing_since, last_success_at, last_error,
                                        disabled, took_s, is_page
    changes                     stream  id, seq and state of every change, in order; two weeks

What is told of it:

    events                      stream  every transition and callback, until the ledger has it
    events:dropped              string  how many events the memory guard removed unread
    counts                      hash    transitions by state since the beginning; times of the last
    metrics                     hash    `<name>|<label values>|<bucket, sum or empty>` -> total
    audit                       stream  what people did; the newest `MAX_AUDIT` entries
    alarms                      hash    code -> JSON {severity, message, fix, since, told_at}

What comes from programs that speak only Redis:

    intake                      stream  uploads that a worker has not taken over yet
    intake:refused              stream  answers to those that were refused; `MAX_REFUSALS`
    intake:events               list    bucket events as MinIO appends them

Processes:

    workers                     hash    process -> its last sign of life (JSON)
    bell:<stage>                string  a doorbell message is on its way; two seconds
    sweeper                     string  token of the process that rings; a few seconds
    sweeper:<duty>              string  the same for a duty; a few seconds
    received:swept              string  somebody has looked for old pictures; an hour
    replicated                  string  written before each wait for replicas; for ever
    written                     string  a write was tried; a minute

Who may use it:

    users                       hash    name -> role, password hash, created_at (JSON)
    session:<digest>            string  name, CSRF token, created_at (JSON); `session_ttl_s`
    api_keys                    hash    key id -> name, scopes, digest and times (JSON)
    api_keys_used               hash    key id -> when it was last used, to the minute
    rate:<what>                 string  when the bucket is full again; expires then
    review:<kind>:<name>        various limits of the review providers; see worker/review/limits.py

A *line* is a stage's name, or `callback:<endpoint>`: one slow endpoint cannot hold the others. An
*item* is an upload id, or `<upload id>#<seq>` for a callback.
"""

from __future__ import annotations

import hashlib
from urllib.parse import urlsplit

from producer.contract import FINAL_STATES, AvatarState, Priority, Stage

#: Most urgent first; the order in which a claim empties them.
LANES = (Priority.HIGH, Priority.NORMAL, Priority.LOW)

#: Lanes beside them, of uploads that would keep others waiting: pictures that need a long look, and
#: pictures at hosts that keep us waiting. Claimed only by name.
SLOW, FAR = "slow", "far"
ALL_LANES = (*LANES, SLOW, FAR)

#: States with an index, because somebody still has to act on them.
OPEN_STATES = tuple(state for state in AvatarState if state not in FINAL_STATES)


class Keyspace:
    """The keys of one namespace; see the header for what each holds."""

    def __init__(self, namespace: str) -> None:
        self.prefix = f"{{{namespace}}}:"
        self.dead = self.name("dead")
        self.data_set = self.name("data_set")
        self.clock = self.name("clock")
        self.callback_default = self.name("callback_default")
        self.endpoints = self.name("endpoints")
        self.changes = self.name("changes")
        self.appeals = self.name("appeals")
        self.settling = self.name("settling")
        self.same_indexed = self.name("same", "indexed")
        self.claims = self.name("claims")
        self.claims_until = self.name("claims", "until")
        self.subjects = self.name("subjects")
        self.subjects_swept = self.name("subjects", "swept")
        self.forgotten = self.name("forgotten")
        self.forgotten_facts = self.name("forgotten", "facts")
        self.hash_key = self.name("hash_key")
        self.copies = self.name("copies")
        self.copies_promised = self.name("copies", "promised")
        self.copies_swept = self.name("copies", "swept")
        self.audits = self.name("audits")
        self.audits_draw = self.name("audits", "draw")
        self.audits_explicit = self.name("audits", "explicit")
        self.memory = self.name("memory")
        self.memory_index = self.name("memory", "index")
        self.memory_wanted = self.name("memory", "wanted")
        self.memory_met = self.name("memory", "met")
        self.memory_origin = self.name("memory", "origin")
        self.memory_swept = self.name("memory", "swept")
        self.events = self.name("events")
        self.events_dropped = self.name("events", "dropped")
        self.counts = self.name("counts")
        self.metrics = self.name("metrics")
        self.audit = self.name("audit")
        self.alarms = self.name("alarms")
        self.intake = self.name("intake")
        self.intake_refused = self.name("intake", "refused")
        self.intake_events = self.name("intake", "events")
        self.workers = self.name("workers")
        self.received_swept = self.name("received", "swept")
        self.replicated = self.name("replicated")
        self.written = self.name("written")
        self.users = self.name("users")
        self.api_keys = self.name("api_keys")
        self.api_keys_used = self.name("api_keys_used")

    def name(self, *parts: str) -> str:
        """Full name of a key."""
        return self.prefix + ":".join(parts)

    def avatar(self, upload_id: str) -> str:
        """The record of an upload."""
        return self.name("avatar", upload_id)

    def open(self, state: str) -> str:
        """Index of the uploads in an open state."""
        return self.name("open", state)

    def waiting(self, lane: str) -> str:
        """What waits for a person in a lane: an open state, `audits` or `appeals`."""
        lanes = {"audits": self.audits, "appeals": self.appeals}
        return lanes.get(lane) or self.open(lane)

    def same(self, sha256: str, which: str) -> str:
        """Uploads with this content that are `waiting` or `decided`."""
        return self.name("same", sha256, which)

    def blocked(self, name: str) -> str:
        """Blocked uploads of one person."""
        return self.name("blocked", name)

    def due(self, line: str, lane: str) -> str:
        """Set in which the items of a line wait."""
        return self.name("due", line, lane)

    def lease(self, line: str) -> str:
        """Set of the items of a line that are in workers' hands."""
        return self.name("lease", line)

    def holder(self, line: str) -> str:
        """Who has which item of a line."""
        return self.name("holder", line)

    def crashes(self, line: str) -> str:
        """How many holders died with which item of a line."""
        return self.name("crashes", line)

    def letter(self, item: str) -> str:
        """The dead letter of an item."""
        return self.name("dead", item)

    def verdict(self, *content: str) -> str:
        """What was judged of a content; its hash first, then how it was looked at."""
        return self.name("verdict", *content)

    def subject(self, name: str) -> str:
        """Uploads of one person."""
        return self.name("subject", name)

    def overrule(self, sha256: str) -> str:
        """What an operator said of a content."""
        return self.name("overrule", sha256)

    def doubted(self, sha256: str) -> str:
        """Mark of a content that an audit found explicit."""
        return self.name("doubted", sha256)

    def memory_seen(self, sha256: str) -> str:
        """By what a content is found again."""
        return self.name("memory", "seen", sha256)

    def memory_cleared(self, key: str) -> str:
        """What looks like an entry of the memory, and was approved."""
        return self.name("memory", "cleared", key)

    def memory_alike(self, key: str) -> str:
        """Uploads that looked like an entry of the memory when they were scored."""
        return self.name("memory", "alike", key)

    def callback(self, item: str) -> str:
        """One callback that is yet to be delivered."""
        return self.name("callback", item)

    def endpoint(self, name: str) -> str:
        """How an endpoint is doing."""
        return self.name("endpoint", name)

    def bell(self, stage: str) -> str:
        """Mark of a doorbell that is on its way."""
        return self.name("bell", stage)

    def sweeper(self, duty: str) -> str:
        """Lock of a duty; of the ringing itself where `duty` is empty."""
        return self.name("sweeper", duty) if duty else self.name("sweeper")

    def session(self, digest: str) -> str:
        """One signed-in browser."""
        return self.name("session", digest)

    def rate(self, what: str) -> str:
        """Bucket of a rate."""
        return self.name("rate", what)


def review_key(prefix: str, kind: str, name: str) -> str:
    """Key of a review provider's shared limits behind the prefix of a namespace."""
    return f"{prefix}review:{kind}:{name}"


def clock_key(prefix: str) -> str:
    """Key of the clock behind the prefix of a namespace."""
    return f"{prefix}clock"


def book_keys(prefix: str) -> list[str]:
    """Keys of events and metrics, which are told of each billed review call as it is booked."""
    return [f"{prefix}events", f"{prefix}metrics"]


def server_of(url: str) -> str:
    """Scheme, host and port of a URL, without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def endpoint_name(url: str) -> str:
    """Short stable name of the server behind a callback URL; safe inside a key."""
    return hashlib.sha256(server_of(url).encode()).hexdigest()[:12]


def callback_line(endpoint: str) -> str:
    """The line that callbacks to one endpoint wait in."""
    return f"{Stage.CALLBACK}:{endpoint}"
