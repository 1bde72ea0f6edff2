"""Rows, history, changes, commands, entries, outcomes, marks, catalog records, staged chunks."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from itertools import chain

from cluster.raft.wal_format import RecordType
from kalamdb.model import codec, keys
from kalamdb.model.audit import AuditEntry
from kalamdb.model.catalog import (
    Identity,
    Namespace,
    NodeRecord,
    NodeState,
    Placement,
    User,
    ViewDef,
)
from kalamdb.model.change import Op, Row
from kalamdb.model.command import Command, Entry, Outcome
from kalamdb.model.ids import GroupId, NodeId, Seq, Slot, TableId
from kalamdb.model.principal import Role
from kalamdb.model.slot import Move, MoveState, SlotHead
from kalamdb.model.table import (
    AccessLevel,
    Check,
    Column,
    Default,
    DefaultKind,
    FlushPolicy,
    Index,
    IndexState,
    TableDef,
    TableKind,
    TableOptions,
    Unique,
)
from kalamdb.model.types import ColumnType, Kind
from kalamdb.store import catalog_codec, slot_codec, staged
from kalamdb.store.audit import decode_audit, encode_audit
from kalamdb.store.catalog_codec import (
    Fence,
    FenceState,
    RecordKind,
    Replaced,
    TableState,
)
from kalamdb.store.slot_codec import Arrival, ArrivalState, SlotRecord, SlotState
from tests.compat.case import Case, nothing

SEQ = Seq(0x0102030405060708)
OLD = Seq(0x0102030405060307)

# One stored value of each type, by column id.
ROW: Row = {
    0: 1 << 62,
    1: True,
    2: -32768,
    3: (1 << 31) - 1,
    4: -(1 << 63),
    5: 0.25,
    6: -1.7e308,
    7: "-12.3400",
    8: "text é 𝄞 \x00",
    9: b"\x00\xff bytes",
    10: '{"a": [1, null]}',
    11: 1_700_000_000_123_456,
    12: -1,
    13: 19_700,
    14: 86_399_999_999,
    15: bytes(range(16)),
    16: b"\x00\x00\x80?\x00\x00\x00\xc0",
    300: "a column with a large id",
}
COMMANDS = (
    Command(((b"\x10key", b"value"), (b"\x11gone", None))),
    Command(((b"\x10k", b""),), b"\x18request", b"0123456789abcdef", b"\x98\x01"),
)
ENTRY = Entry(7, OLD, SEQ, 1_790_000_000_123, COMMANDS)
OUTCOMES = {
    "plain": Outcome(3, SEQ, inserted=1, updated=1, deleted=1),
    "returning": Outcome(
        2, SEQ, ("id", "b"), (("9007199254740993", None), ("1", [1, 2.5, "x"])), inserted=2
    ),
    "no rows returned": Outcome(0, SEQ, ("id",), ()),
}


def log_cases() -> list[Case]:
    row = codec.encode_row(SEQ, ROW)
    encoded = [codec.encode_command(command) for command in COMMANDS]
    cases = [
        Case("row of every type", row, (SEQ, ROW), codec.decode_row, 0),
        Case("empty row", codec.encode_row(OLD, {}), (OLD, {}), codec.decode_row, 0),
        Case("tombstone", codec.encode_tombstone(SEQ), (SEQ, None), codec.decode_row, 0),
        Case("history", codec.encode_history(SEQ, row), (SEQ, row), codec.decode_history, 0),
        Case("seq", codec.encode_seq(SEQ), SEQ, codec.decode_seq),
        Case("mark", codec.encode_mark(9, 2, SEQ), (9, 2, SEQ), codec.decode_mark, 0),
        Case("command", encoded[0], COMMANDS[0], codec.decode_command),
        Case("command with a request", encoded[1], COMMANDS[1], codec.decode_command),
        Case(
            "entry",
            codec.encode_entry(7, OLD, SEQ, 1_790_000_000_123, encoded),
            ENTRY,
            codec.decode_entry,
            0,
        ),
        Case(
            "empty entry",
            codec.encode_entry(1, Seq(0), Seq(0), 0, []),
            Entry(1, Seq(0), Seq(0), 0, ()),
            codec.decode_entry,
            0,
        ),
    ]
    for op in Op:
        made = codec.encode_change(op, OLD, SEQ, op is Op.DELETE, b"\x20pk")
        value = (op, OLD, SEQ, op is Op.DELETE, b"\x20pk")
        cases.append(Case(f"change {op.name}", made, value, codec.decode_change, 0))
    for name, outcome in OUTCOMES.items():
        made = codec.encode_outcome(outcome)
        cases.append(Case(f"outcome, {name}", made, outcome, codec.decode_outcome, 1))
    return cases


def staged_cases() -> list[Case]:
    command = Command(((b"\x10large", b"v" * 10),), None, b"", b"o" * 20)
    parts = staged.split(codec.encode_command(command), 3, 5)
    (chunk_key, chunk), (commit_key, commit) = (part[0] for part in parts)
    assert chunk is not None
    assert commit is not None

    def read_commit(raw: bytes) -> Command:
        return staged.join((commit_key, raw), {chunk_key: chunk}.get)[0]

    return [
        Case("staged chunk key", chunk_key, None, nothing),
        Case("staged commit key", commit_key, None, nothing),
        Case("staged chunk", chunk, command, codec.decode_command),
        Case("staged commit", commit, command, read_commit, 1),
    ]


COLUMNS = tuple(
    Column(number, f"c_{kind.name.lower()}", ColumnType(kind, *sizes), nullable=number % 2 == 0)
    for number, (kind, sizes) in enumerate(
        (
            (kind, {Kind.DECIMAL: (38, 4, 0), Kind.EMBEDDING: (0, 0, 2)}.get(kind, (0, 0, 0)))
            for kind in Kind
        ),
        1,
    )
)
DEFAULTED = tuple(
    Column(50 + number, f"d_{kind.name.lower()}", ColumnType(Kind.TEXT), default=Default(kind, "x"))
    for number, kind in enumerate(DefaultKind)
)
TABLE = TableDef(
    TableId(0x01020304),
    "chat",
    "every",
    TableKind.USER,
    COLUMNS + DEFAULTED,
    (2, 3),
    (Unique(1, (8,), "every_text"), Unique(2, (3, 4), "pair")),
    (Check("few", "c_int < 5"),),
    TableOptions(
        AccessLevel.RESTRICTED, 3600, "cold", True, FlushPolicy(1000, 60), "none", 48, True
    ),
    3,
    60,
    3,
    1_790_000_000_000,
)
STREAM = TableDef(TableId(1), "n", "s", TableKind.STREAM, (), (0,), (), (), TableOptions(ttl_s=5))
SHARED = TableDef(TableId(2), "n", "p", TableKind.SHARED, COLUMNS[:1], (1,))
INDEXED = replace(
    SHARED,
    columns=(*COLUMNS[:1], replace(COLUMNS[1], id=9, initial=5)),
    uniques=(
        Unique(1, (1,), "kept"),
        Unique(2, (1, 9), "made", by_index=True, state=IndexState.BUILDING),
        Unique(3, (9,), "checked", state=IndexState.BUILDING),
    ),
    indexes=(Index(4, (9, 1), "found"), Index(5, (1,), "coming", IndexState.BUILDING)),
)

ENTRY_OF_AUDIT = AuditEntry(
    1_790_000_000_123, "ann", "ALTER_USER", "bob", "role dba", "192.0.2.1", "bob"
)
BARE_AUDIT = AuditEntry(1, "root", "CREATE_NAMESPACE", "app")


REPLACED = Replaced(INDEXED, 1_790_000_000_000, 1_790_000_060_000)
VIEW = ViewDef(
    TableId(7),
    "chat",
    "recent",
    ("id", "count(*)"),
    "SELECT id, count(*) FROM messages GROUP BY id",
    "default",
    {TableId(2): 4, TableId(1): 60},
    (TableId(5),),
    3,
    1_790_000_000_000,
)


def catalog_cases() -> list[Case]:
    table, fence = catalog_codec.encode_table, catalog_codec.encode_fence
    read_table, read_fence = catalog_codec.decode_table, catalog_codec.decode_fence
    namespace = Namespace("chat", 5, {"a": 1})
    user = User("ann\x00é", Role.DBA, "$argon2id$x", "a@b", 7, 1, 2)
    bare = User("bob", Role.USER, "", None, 1, 1, 1)
    identity = Identity("https://issuer", "olga")
    outside = User("olga", Role.DBA, "", "o@b", 9, 1, 2, identity, 1_790_000_000_123)
    dropped = User("gone", Role.USER, "", None, 9, 1, 2, None, 0, 1_790_000_000_123)
    decode_user = catalog_codec.decode_user
    placement = Placement("c-1", 8, (1, 2, 3), {Slot(4): GroupId(2), Slot(9): GroupId(8)})
    cases = [
        Case(
            "namespace",
            catalog_codec.encode_namespace(namespace),
            namespace,
            catalog_codec.decode_namespace,
            1,
        ),
        Case("user", catalog_codec.encode_user(user), user, catalog_codec.decode_user, 1),
        Case("bare user", catalog_codec.encode_user(bare), bare, catalog_codec.decode_user, 1),
        Case("outside user", catalog_codec.encode_user(outside), outside, decode_user, 1),
        Case("dropped user", catalog_codec.encode_user(dropped), dropped, decode_user, 1),
        Case("audit entry", encode_audit(ENTRY_OF_AUDIT), ENTRY_OF_AUDIT, decode_audit, 1),
        Case("bare audit entry", encode_audit(BARE_AUDIT), BARE_AUDIT, decode_audit, 1),
        Case(
            "placement",
            catalog_codec.encode_placement(placement),
            placement,
            catalog_codec.decode_placement,
            1,
        ),
        Case(
            "request record",
            catalog_codec.encode_request(b"hash", b"outcome"),
            (b"hash", b"outcome"),
            catalog_codec.decode_request,
            1,
        ),
    ]
    for state in TableState:
        cases.append(
            Case(f"table {state.name}", table(TABLE, state), (TABLE, state), read_table, 1)
        )
    for kept in FenceState:
        made = Fence(TABLE, kept)
        cases.append(Case(f"fence {kept.name}", fence(made), made, read_fence, 1))
    for name, bare_table in (("stream", STREAM), ("shared", SHARED), ("indexed", INDEXED)):
        value = (bare_table, TableState.ACTIVE)
        cases.append(Case(f"{name} table", table(*value), value, read_table, 1))
    replaced, view = catalog_codec.encode_replaced(REPLACED), catalog_codec.encode_view(VIEW)
    cases.append(Case("replaced table", replaced, REPLACED, catalog_codec.decode_replaced, 1))
    cases.append(Case("view", view, VIEW, catalog_codec.decode_view, 1))
    for state in SlotState:
        record = SlotRecord(3, state)
        made_slot = slot_codec.encode_slot(record)
        cases.append(Case(f"slot {state.name}", made_slot, record, slot_codec.decode_slot, 1))
    return cases + node_cases() + move_cases()


def move_cases() -> list[Case]:
    """Slots on their way."""
    head = SlotHead(77, Seq(90), Seq(40), ((GroupId(3), Seq(60)),), ((TableId(7), 2),), 5)
    arrival = Arrival(2, ArrivalState.FILLING, head, b"key", 3, 120, 4096)
    frozen = SlotRecord(4, SlotState.FROZEN, Seq(90), GroupId(2))
    importing = SlotRecord(4, SlotState.IMPORTING, Seq(90), GroupId(1), arrival)
    move = Move(Slot(9), GroupId(1), GroupId(2), 4, MoveState.MOVING, 1_790_000_000_000)
    encode, decode = slot_codec.encode_slot, slot_codec.decode_slot
    moved = slot_codec.encode_move(move)
    return [
        Case("slot frozen at a cut", encode(frozen), frozen, decode, 1),
        Case("slot with an image", encode(importing), importing, decode, 1),
        Case("move", moved, move, slot_codec.decode_move, 1),
    ]


def node_cases() -> list[Case]:
    node = NodeRecord(
        NodeId(3), "0e3f", "n3:9189", "n3:8080", NodeState.DRAINING, 1_790_000_000_000
    )
    voters = (NodeId(3), NodeId(1), NodeId(2))
    return [
        Case("node", catalog_codec.encode_node(node), node, catalog_codec.decode_node, 1),
        Case(
            "members", catalog_codec.encode_members(voters), voters, catalog_codec.decode_members, 1
        ),
        Case(
            "replication",
            catalog_codec.encode_replication(5),
            5,
            catalog_codec.decode_replication,
            1,
        ),
    ]


_NUMBERED: tuple[type[IntEnum], ...] = (
    keys.Family,
    Op,
    RecordKind,
    TableState,
    FenceState,
    SlotState,
    ArrivalState,
    MoveState,
    RecordType,
)
_NAMED = (Kind, TableKind, AccessLevel, DefaultKind, Role, NodeState)


def name_cases() -> list[Case]:
    """Numbers and names that stand for something in durable bytes."""
    numbered = chain.from_iterable(_NUMBERED)
    cases = [
        Case(f"{type(member).__name__}.{member.name}", bytes([member]), member, _of(type(member)))
        for member in numbered
    ]
    for member in chain.from_iterable(_NAMED):
        name = f"{type(member).__name__}.{member.name}"
        cases.append(Case(name, str(member.value).encode(), member, _named(type(member))))
    return cases


def _of(kind: type[IntEnum]):
    return lambda raw: kind(raw[0])


def _named(kind: type):
    return lambda raw: kind(raw.decode())
