"""The log in Redis Streams: for several gateways on several machines.

Each consumer is a consumer group. A row's sequence is its stream id, given by a script that also
knows the event, so that a repeated XADD is no second row. Baseline: Redis 6.2; WAITAOF is used
where the server has it. Keys of a tenant share a hash tag, so that a cluster keeps them together.

    {understudy:T}:stream       rows; id <sequence>-0, fields r (record) and t (time)
    {understudy:T}:sequence     highest sequence given
    {understudy:T}:rows         sorted set of sequences, for counting
    {understudy:T}:events       sequence by node and event id
    {understudy:T}:labels       teacher's label by sequence
    {understudy:T}:unlabelled   sorted set of sequences
    {understudy:T}:subject:S    set of sequences about a subject
    {understudy:T}:dead:C       sorted set of sequences a consumer took in vain
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from understudy.cloud.log import MAX_DELIVERIES, LogStats, NewRow
from understudy.cloud.log.rows import decode_label, decode_record, encode_label, encode_record
from understudy.cloud.redis_server import RedisServer
from understudy.types.errors import DataError
from understudy.types.records import LoggedRow, TeacherLabel

_PAGE = 512
_CLAIM_IDLE_MS = 60_000
"""A row that another reader of the same consumer took so long ago is taken over."""

# KEYS: stream sequence rows events labels unlabelled; ARGV: time, then per row: event, record,
# label or '', subject's key or ''. Returns per row: sequence, 1 if it was there before.
_APPEND = """
local found = {}
for i = 2, #ARGV, 4 do
  local event, record, label, subject = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local sequence = redis.call('HGET', KEYS[4], event)
  local known = sequence and 1 or 0
  if known == 0 then
    sequence = redis.call('INCR', KEYS[2])
    redis.call('XADD', KEYS[1], sequence .. '-0', 'r', record, 't', ARGV[1])
    redis.call('ZADD', KEYS[3], sequence, sequence)
    redis.call('HSET', KEYS[4], event, sequence)
    redis.call('ZADD', KEYS[6], sequence, sequence)
    if subject ~= '' then redis.call('SADD', subject, sequence) end
  end
  if label ~= '' and redis.call('HSETNX', KEYS[5], sequence, label) == 1 then
    redis.call('ZREM', KEYS[6], sequence)
  end
  found[#found + 1] = {tonumber(sequence), known}
end
return found
"""
# KEYS: rows labels unlabelled; ARGV: sequence, label.
_ATTACH = """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1
then redis.call('ZREM', KEYS[3], ARGV[1]) end
"""
# KEYS: stream rows events labels unlabelled; ARGV: per row: sequence, event, subject's key or ''.
_DELETE = """
for i = 1, #ARGV, 3 do
  local sequence = ARGV[i]
  redis.call('XDEL', KEYS[1], sequence .. '-0')
  redis.call('ZREM', KEYS[2], sequence)
  redis.call('HDEL', KEYS[3], ARGV[i + 1])
  redis.call('HDEL', KEYS[4], sequence)
  redis.call('ZREM', KEYS[5], sequence)
  if ARGV[i + 2] ~= '' then redis.call('SREM', ARGV[i + 2], sequence) end
end
"""


def open_redis_log(url: str, *, tenant: str = "default", reader: str = "reader") -> RedisLog:
    """The log on a server that keeps what it takes.

    Raises:
        ConfigError: Names the setting of the server that must change.
        LinkDownError: If the server cannot be reached.
    """
    server = RedisServer(url)
    try:
        server.require_durable()
    except BaseException:
        server.close()
        raise
    return RedisLog(server, tenant=tenant, reader=reader)


class RedisLog:
    """The escalation log in streams; see `EscalationLog` for what each method promises."""

    def __init__(
        self,
        server: RedisServer,
        *,
        tenant: str,
        reader: str = "reader",
        now: Callable[[], float] = time.time,
    ) -> None:
        """Takes a server that was checked; `reader` tells this process's reads from others'."""
        self._server = server
        self._redis = server.client
        self._reader = reader
        self._now = now
        self._prefix = f"{{understudy:{tenant}}}:"
        self._stream = self._key("stream")
        self._append = self._redis.register_script(_APPEND)
        self._attach = self._redis.register_script(_ATTACH)
        self._delete = self._redis.register_script(_DELETE)

    def append(self, rows: Sequence[NewRow]) -> list[LoggedRow]:
        """Makes rows durable and returns them as they stand in the log."""
        if not rows:
            return []
        logged = self._now()
        keys = ("stream", "sequence", "rows", "events", "labels", "unlabelled")
        arguments = [repr(logged), *(part for row in rows for part in self._fields(row))]
        with self._server.errors():
            found = self._append(keys=[self._key(k) for k in keys], args=arguments)
        self._server.confirm()
        stored = []
        for row, (sequence, known) in zip(rows, found, strict=True):
            fresh = LoggedRow(int(sequence), row.record, row.teacher, logged)
            stored.append(self._row(int(sequence)) or fresh if known else fresh)
        return stored

    def find(self, event_id: str, node: str) -> LoggedRow | None:
        """The row of that event from that node."""
        with self._server.errors():
            sequence = self._redis.hget(self._key("events"), _event(node, event_id))
        return None if sequence is None else self._row(int(sequence))

    def attach(self, sequence: int, teacher: TeacherLabel) -> None:
        """Adds the teacher's label to a row that had none."""
        keys = [self._key(name) for name in ("rows", "labels", "unlabelled")]
        with self._server.errors():
            self._attach(keys=keys, args=[sequence, encode_label(teacher)])
        self._server.confirm()

    def read(self, consumer: str, limit: int) -> list[LoggedRow]:
        """The next rows this consumer has not acknowledged, oldest first."""
        with self._server.errors():
            self._make_group(consumer)
            self._redis.xautoclaim(
                self._stream, consumer, self._reader, _CLAIM_IDLE_MS, count=limit, justid=True
            )
            self._bury(consumer, limit)
            entries = self._take(consumer, "0", limit)
            if len(entries) < limit:
                entries += self._take(consumer, ">", limit - len(entries))
        return self._rows(sorted(entries))

    def acknowledge(self, consumer: str, sequences: Sequence[int]) -> None:
        """Tells that the consumer is done with these rows."""
        if not sequences:
            return
        with self._server.errors():
            self._make_group(consumer)
            self._redis.xack(self._stream, consumer, *(f"{s}-0" for s in sequences))
            self._redis.zrem(self._key(f"dead:{consumer}"), *sequences)
        self._server.confirm()

    def dead_letters(self, consumer: str) -> list[LoggedRow]:
        """Rows set aside for this consumer, oldest first."""
        with self._server.errors():
            sequences = self._redis.zrange(self._key(f"dead:{consumer}"), 0, -1)
        return [row for s in sequences if (row := self._row(int(s))) is not None]

    def scan(self, after_sequence: int = 0) -> Iterator[LoggedRow]:
        """Every row kept after a sequence, in pages."""
        while True:
            with self._server.errors():
                page = self._redis.xrange(self._stream, f"({after_sequence}-0", "+", _PAGE)
            if not page:
                return
            rows = self._rows([(_sequence(id_), fields) for id_, fields in page])
            yield from rows
            after_sequence = rows[-1].sequence

    def unlabelled(self, limit: int, after_sequence: int = 0) -> list[LoggedRow]:
        """Rows after a sequence that still need the teacher, oldest first."""
        with self._server.errors():
            sequences = self._redis.zrangebyscore(
                self._key("unlabelled"), f"({after_sequence}", "+inf", 0, limit
            )
        return [row for s in sequences if (row := self._row(int(s))) is not None]

    def forget(self, subject: str) -> int:
        """Deletes every row about a subject; the empty subject is nobody."""
        if not subject:
            return 0
        with self._server.errors():
            sequences = self._redis.smembers(self._subject(subject))
            groups = self._redis.xinfo_groups(self._stream) if sequences else []
            for group in groups:
                self._redis.xack(self._stream, group["name"], *(f"{int(s)}-0" for s in sequences))
        return self._erase([row for s in sequences if (row := self._row(int(s))) is not None])

    def trim(self, before_unix_s: float) -> int:
        """Deletes rows logged earlier and below every consumer's watermark."""
        watermark, deleted = self._watermark(), 0
        while True:
            with self._server.errors():
                page = self._redis.xrange(self._stream, "-", f"{watermark}-0", _PAGE)
            rows = self._rows([(_sequence(id_), fields) for id_, fields in page])
            old = [row for row in rows if row.logged_unix_s < before_unix_s]
            deleted += self._erase(old)
            if len(old) < _PAGE:
                return deleted

    def stats(self) -> LogStats:
        """How the log stands."""
        with self._server.errors():
            pipe = self._redis.pipeline(transaction=False)
            pipe.zcard(self._key("rows")).zcard(self._key("unlabelled"))
            rows, unlabelled, last = pipe.get(self._key("sequence")).execute()
            groups = self._groups()
            lag = {name: self._lag(name, upto, pending) for name, upto, pending in groups}
            dead = sum(self._redis.zcard(self._key(f"dead:{name}")) for name, _, _ in groups)
        return LogStats(rows, unlabelled, int(last or 0), lag, dead)

    def close(self) -> None:
        """Closes the connections; safe to repeat."""
        self._server.close()

    def _fields(self, row: NewRow) -> tuple[bytes, bytes, bytes, str]:
        record = row.record
        return (
            _event(record.node, record.event_id),
            encode_record(record),
            encode_label(row.teacher) or b"",
            self._subject(record.subject) if record.subject else "",
        )

    def _make_group(self, consumer: str) -> None:
        from redis.exceptions import ResponseError

        try:
            self._redis.xgroup_create(self._stream, consumer, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _bury(self, consumer: str, limit: int) -> None:
        """Sets aside what came too often; the rows stay, only the group is done with them."""
        pending = self._redis.xpending_range(
            self._stream, consumer, "-", "+", limit, consumername=self._reader
        )
        for entry in pending:
            if entry["times_delivered"] >= MAX_DELIVERIES:
                sequence = _sequence(entry["message_id"])
                self._redis.zadd(self._key(f"dead:{consumer}"), {str(sequence): sequence})
                self._redis.xack(self._stream, consumer, entry["message_id"])

    def _take(self, consumer: str, start: str, count: int) -> list[tuple[int, dict[bytes, bytes]]]:
        """Entries of one XREADGROUP; those deleted meanwhile are acknowledged and left out."""
        reply = self._redis.xreadgroup(consumer, self._reader, {self._stream: start}, count=count)
        entries = reply[0][1] if reply else []
        gone = [id_ for id_, fields in entries if not fields]
        if gone:
            self._redis.xack(self._stream, consumer, *gone)
        return [(_sequence(id_), fields) for id_, fields in entries if fields]

    def _row(self, sequence: int) -> LoggedRow | None:
        with self._server.errors():
            page = self._redis.xrange(self._stream, f"{sequence}-0", f"{sequence}-0")
        return self._rows([(sequence, page[0][1])])[0] if page else None

    def _rows(self, entries: Sequence[tuple[int, dict[bytes, bytes]]]) -> list[LoggedRow]:
        if not entries:
            return []
        with self._server.errors():
            labels = self._redis.hmget(self._key("labels"), [s for s, _ in entries])
        return [
            LoggedRow(s, decode_record(f[b"r"]), decode_label(label), float(f[b"t"]))
            for (s, f), label in zip(entries, labels, strict=True)
        ]

    def _erase(self, rows: Sequence[LoggedRow]) -> int:
        if not rows:
            return 0
        arguments: list[Any] = []
        for row in rows:
            record = row.record
            subject = self._subject(record.subject) if record.subject else ""
            arguments += [row.sequence, _event(record.node, record.event_id), subject]
        keys = [self._key(k) for k in ("stream", "rows", "events", "labels", "unlabelled")]
        with self._server.errors():
            self._delete(keys=keys, args=arguments)
            for name, _, _ in self._groups():
                self._redis.zrem(self._key(f"dead:{name}"), *(row.sequence for row in rows))
        return len(rows)

    def _watermark(self) -> int:
        """The highest sequence below which every consumer is done; 0 while nobody reads."""
        with self._server.errors():
            done = []
            for name, upto, pending in self._groups():
                if pending:
                    oldest = self._redis.xpending(self._stream, name)["min"]
                    upto = min(upto, _sequence(oldest) - 1)  # noqa: PLW2901 - the lower of both
                done.append(upto)
        return min(done, default=0)

    def _groups(self) -> list[tuple[str, int, int]]:
        """Name, last sequence handed out and number pending of each consumer."""
        from redis.exceptions import ResponseError

        with contextlib.suppress(ResponseError):  # no stream yet
            return [
                (g["name"].decode(), _sequence(g["last-delivered-id"]), int(g["pending"]))
                for g in self._redis.xinfo_groups(self._stream)
            ]
        return []

    def _lag(self, consumer: str, upto: int, pending: int) -> int:
        del consumer
        return pending + int(self._redis.zcount(self._key("rows"), f"({upto}", "+inf"))

    def _subject(self, subject: str) -> str:
        return self._key("subject:" + hashlib.sha256(subject.encode()).hexdigest())

    def _key(self, name: str) -> str:
        return self._prefix + name


def _event(node: str, event_id: str) -> bytes:
    return f"{node}\x00{event_id}".encode()


def _sequence(stream_id: bytes | str) -> int:
    text = stream_id.decode() if isinstance(stream_id, bytes) else stream_id
    try:
        return int(text.partition("-")[0])
    except ValueError as error:
        raise DataError(f"the stream holds an id that is not ours: {text}") from error
