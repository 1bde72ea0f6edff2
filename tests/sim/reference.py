"""The committed log of a group, as the first member to apply each entry had it, and what follows
from it.

An own reading of the log, beside the code under test: entries are decoded and folded into a dict;
every member must apply the same entries, and its store must equal the fold at its applied index.

Keeps: a difference between members raises at once (`Violation`), with the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import xxhash

from kalamdb.model import codec, keys
from kalamdb.model.change import Row
from kalamdb.model.command import Command, Effect
from kalamdb.model.ids import HOUR_MS, SEQ_EPOCH_MS, SEQ_GROUP_MASK, Partition, Seq
from kalamdb.ports import LogEntry
from kalamdb.store import staged
from kalamdb.store.catalog_codec import encode_request
from tests.sim.history import Elements, Frame
from tests.sim.schema import TABLE, UNIQUE_COLUMN, elements_of, operation_of_request

OPEN_S = float("inf")


class Violation(AssertionError):
    """The system broke a promise; the text says which."""


@dataclass(frozen=True, slots=True)
class CommittedCommand:
    """`operations` are the numbers its new row versions end with, or its request names."""

    index: int
    seq: Seq
    request_key: bytes | None
    operations: tuple[int, ...]


@dataclass(slots=True)
class Span:
    """A time in which a committed row had a UNIQUE value."""

    from_s: float
    to_s: float = OPEN_S


class GroupReference:
    """See the module."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.entries: dict[int, tuple[int, bytes]] = {}
        self.commands: list[CommittedCommand] = []
        self.void = 0
        self.staged = 0
        self.leaders: dict[int, int] = {}
        self.index = 0
        self.seq = Seq(0)
        self.state: dict[bytes, bytes] = {}
        self.unique_spans: dict[tuple[Partition, int | None], list[Span]] = {}
        self._chains: dict[Partition, list[Frame]] = {}
        self._digest = 0
        self._digests: dict[int, int] = {0: 0, 1: 0}
        self._had: dict[tuple[Partition, bytes], tuple[int, Span]] = {}

    def chain(self, partition: Partition) -> list[Frame]:
        """All changes of the partition's table, in order."""
        return self._chains.setdefault(partition, [])

    def digest_at(self, index: int) -> int | None:
        return self._digests.get(index)

    def led(self, node: int, term: int) -> None:
        """A member began to lead. One member leads in a term, once."""
        if term in self.leaders:
            before = self.leaders[term]
            raise Violation(f"group {self.group}: {before} led in term {term}, now {node} does")
        self.leaders[term] = node

    def saw(self, node: int, entry: LogEntry, now_s: float) -> None:
        """A member is about to apply an entry."""
        said = (entry.term, entry.payload)
        known = self.entries.setdefault(entry.index, said)
        if known != said:
            raise Violation(
                f"group {self.group}: entry {entry.index} on node {node} is of term {entry.term}, "
                f"another member applied one of term {known[0]}"
            )
        while self.index + 1 in self.entries or (self.index == 0 and 2 in self.entries):
            self.index += 1
            if self.index in self.entries:
                self._fold(self.index, *self.entries[self.index], now_s)
            self._digests[self.index] = self._digest

    def _fold(self, index: int, term: int, payload: bytes, now_s: float) -> None:
        if index > 2 and term < self.entries[index - 1][0]:
            raise Violation(f"group {self.group}: entry {index} is of term {term}, terms fall")
        if not payload:
            return
        entry = codec.decode_entry(payload)
        if entry.term != term:
            self.void += 1
            return
        where = f"group {self.group}, entry {index}"
        if entry.prev_seq != self.seq:
            raise Violation(f"{where} follows seq {entry.prev_seq}, the group is at {self.seq}")
        if entry.seq_last < self.seq:
            raise Violation(f"{where}: seq falls from {self.seq} to {entry.seq_last}")
        hour = max(0, entry.time_ms - SEQ_EPOCH_MS) // HOUR_MS
        for command in entry.commands:
            gone: list[Effect] = []
            if staged.is_commit(command.effects):
                command, gone = self._joined(command.effects[0])
                self.staged += 1
            effects = [*gone, *command.effects]
            if command.request_key is not None:
                record = encode_request(command.hash, command.outcome)
                effects.append((command.request_key, record))
                effects.append((keys.request_hour(hour, command.request_key), b""))
            self._put(effects)
            self._note(where, index, command, now_s=now_s)
        if entry.seq_last < self.seq:
            raise Violation(f"{where}: it has changes above its seq_last {entry.seq_last}")
        self.seq = entry.seq_last

    def _joined(self, commit: Effect) -> tuple[Command, list[Effect]]:
        """The command in the chunks that `commit` names, and their deletions."""
        key, value = commit
        assert value is not None
        _, count = codec.unpack(value)
        names = [key[:-4] + keys.U32.pack(number) for number in range(count)]
        whole = b"".join(self.state[name] for name in names)
        return codec.decode_command(whole), [(name, None) for name in names]

    def _put(self, effects: Iterable[Effect]) -> None:
        for key, value in effects:
            old = self.state.get(key)
            if old is not None:
                self._digest ^= digest_of(key, old)
                del self.state[key]
            if value is not None:
                self.state[key] = value
                self._digest ^= digest_of(key, value)

    # Commands.

    def _note(self, where: str, index: int, command: Command, *, now_s: float) -> None:
        versions = _versions(command)
        changes = [
            (key, value)
            for key, value in command.effects
            if key[0] == keys.Family.CHANGE and value is not None
        ]
        for key, value in changes:
            self._note_change(where, key, value, versions, last=key == changes[-1][0])
        self._note_unique(command, now_s)
        if changes or command.request_key is not None:
            ends = [row[-1] for (_, seq), row in versions.items() if row and seq]
            numbers = dict.fromkeys(ends)
            if command.request_key is not None:
                numbers[operation_of_request(command.request_key)] = None
            made = CommittedCommand(index, self.seq, command.request_key, tuple(numbers))
            self.commands.append(made)

    def _note_change(
        self,
        where: str,
        key: bytes,
        value: bytes,
        versions: dict[tuple[bytes, Seq], Elements],
        *,
        last: bool,
    ) -> None:
        op, prev_seq, _, last_of_txn, pk = codec.decode_change(value)
        seq = codec.decode_seq(key[-8:])
        name, _ = keys.split_terminated(keys.chain_of_change(key), 4)
        partition = Partition(name)
        chain = self.chain(partition)
        if seq <= self.seq:
            raise Violation(f"{where}: seq {seq} does not rise above {self.seq}")
        if seq & SEQ_GROUP_MASK != self.group:
            raise Violation(f"{where}: seq {seq} has the group bits of another group")
        newest = chain[-1].seq if chain else Seq(0)
        if prev_seq != newest:
            raise Violation(f"{where}: change {seq} follows {prev_seq}, its chain is at {newest}")
        if last_of_txn != last:
            raise Violation(f"{where}: change {seq} says last_of_txn={last_of_txn}")
        self.seq = seq
        chain.append(Frame(seq, prev_seq, op, pk, versions.get((pk, seq)), last_of_txn))

    def _note_unique(self, command: Command, now_s: float) -> None:
        prefix = bytes([keys.Family.ROW])
        for key, value in command.effects:
            if key[:1] != prefix:
                continue
            name, at = keys.split_terminated(key, 5)
            row_key = (Partition(name), key[at:])
            row: Row | None = None if value is None else codec.decode_row(value)[1]
            new = None if row is None else row.get(UNIQUE_COLUMN)
            had = self._had.get(row_key)
            if had is not None and had[0] != new:
                had[1].to_s = now_s
                del self._had[row_key]
            if new is not None and row_key not in self._had:
                span = Span(now_s)
                self._had[row_key] = (new, span)
                self.unique_spans.setdefault((row_key[0], new), []).append(span)
        self._check_unique()

    def _check_unique(self) -> None:
        seen: set[tuple[Partition, int]] = set()
        for (partition, _), (value, _) in self._had.items():
            if (partition, value) in seen:
                raise Violation(f"two rows of {partition.decode()} have the UNIQUE value {value}")
            seen.add((partition, value))


def _versions(command: Command) -> dict[tuple[bytes, Seq], Elements]:
    """New row versions of a command by (primary key, seq)."""
    found: dict[tuple[bytes, Seq], Elements] = {}
    for key, value in command.effects:
        if key[0] == keys.Family.ROW and value is not None and keys.table_of(key) == TABLE.id:
            seq, row = codec.decode_row(value)
            if row is not None:
                _, at = keys.split_terminated(key, 5)
                found[key[at:], seq] = elements_of(row)
    return found


def digest_of(key: bytes, value: bytes) -> int:
    """One key's share of a digest; shares are joined by exclusive or."""
    return xxhash.xxh3_64_intdigest(key + value, len(key))


def digest_pairs(pairs: Iterable[tuple[bytes, bytes]]) -> int:
    digest = 0
    for key, value in pairs:
        if key != keys.META:
            digest ^= digest_of(key, value)
    return digest


def check_store(
    reference: GroupReference, node: int, index: int, pairs: Iterable[tuple[bytes, bytes]]
) -> None:
    """A member's store at its applied index must be what the log says."""
    wanted = reference.digest_at(index)
    if wanted is None or digest_pairs(pairs) == wanted:
        return
    raise Violation(
        f"group {reference.group}: the store of node {node} is not what the log says at {index}"
    )


def difference(reference: GroupReference, pairs: Sequence[tuple[bytes, bytes]]) -> str:
    """Which keys differ from the reference's newest state, for a message."""
    held = {key: value for key, value in pairs if key != keys.META}
    missing = [key for key in reference.state if key not in held]
    extra = [key for key in held if key not in reference.state]
    other = [key for key, value in held.items() if reference.state.get(key, value) != value]
    return f"missing {missing[:3]}, extra {extra[:3]}, different {other[:3]}"
