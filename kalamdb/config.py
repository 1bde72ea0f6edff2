"""Settings: one frozen tree of plain data; every field says default, meaning, unit and bounds.

Each field is made by `setting()`; a number without a unit is a mistake. `lib.settings` reads the
tree from flags, environment and TOML; `docs/reference/settings.md` is made from it.

Keeps: a secret never leaves `described` unmasked. Nothing here opens, starts or connects anything.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit

ENVIRONMENT_PREFIX = "KALAMDB_"
KIB, MIB, GIB = 1024, 1024**2, 1024**3
NODE_ID_MAX = 1_000_000


class InvalidSettings(ValueError):
    """A setting is unknown or has a bad value: where it was read, its name, what is wrong."""

    def __init__(self, source: str, key: str, complaint: str) -> None:
        super().__init__(f"{source}: {key}: {complaint}")
        self.source = source
        self.key = key
        self.complaint = complaint


Check = Callable[[Any], str | None]
"""A value of the right type → what is wrong with it, None for nothing."""


def setting(
    default: Any,
    *,
    doc: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    check: Check | None = None,
    secret: bool = False,
    env: str | None = None,
    flag: str | None = None,
) -> Any:
    """A field of the tree. `env` replaces SECTION_FIELD in its KALAMDB_ variable.

    `low` and `high` bound a number, or the length of a text.
    """
    return field(default=default, metadata={k: v for k, v in locals().items() if k != "default"})


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, also [V6]:PORT → (host, port). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not int(port) <= 65_535:
        raise ValueError(f"{text!r} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def check_address(text: str) -> str | None:
    try:
        address(text)
    except ValueError as error:
        return str(error)
    return None


def peer_addresses(texts: Sequence[str]) -> dict[int, str]:
    """1=HOST:PORT and so on → node to address. Raises ValueError naming what is wrong."""
    found: dict[int, str] = {}
    for text in texts:
        node, equals, where = text.partition("=")
        node, where = node.strip(), where.strip()
        if not equals or not node.isascii() or not node.isdecimal():
            raise ValueError(f"{text!r} is not NODE=HOST:PORT")
        number = int(node)
        if not 1 <= number <= NODE_ID_MAX:
            raise ValueError(f"{text!r}: nodes are numbered from 1 to {NODE_ID_MAX}")
        if address(where)[1] == 0:
            raise ValueError(f"{text!r}: others cannot reach port 0")
        if number in found:
            raise ValueError(f"node {number} is named twice")
        if where in found.values():
            raise ValueError(f"{where} is the address of two nodes")
        found[number] = where
    return found


def check_peers(texts: Sequence[str]) -> str | None:
    try:
        peer_addresses(texts)
    except ValueError as error:
        return str(error)
    return None


_WELL_KNOWN_SECRETS = (
    "change",
    "secret-key",
    "your-",
    "example",
    "insecure",
    "default",
    "password",
)


def check_secret(text: str) -> str | None:
    """A key someone could guess or look up is no key."""
    if len(text) < 32:
        return f"{len(text)} characters are too few for a secret, at least 32 are needed"
    if len(set(text)) < 10:
        return "it repeats too few characters to be a secret"
    if any(word in text.lower() for word in _WELL_KNOWN_SECRETS):
        return "it reads like a placeholder; make one with: openssl rand -base64 48"
    return None


def check_networks(texts: Sequence[str]) -> str | None:
    for text in texts:
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            return str(error)
    return None


def check_id(text: str) -> str | None:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", text):
        return None
    return "use 1 to 63 of A-Z a-z 0-9 _ . - and begin with a letter or a digit"


# ── the tree ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the node listens and keeps its data."""

    http: str = setting(
        "127.0.0.1:8080", doc="HTTP and WebSocket address", check=check_address, flag="--http"
    )
    rpc: str = setting(
        "127.0.0.1:9189",
        doc="node-to-node address, for clusters of several nodes; never open it to the public",
        check=check_address,
        flag="--rpc",
    )
    data: str = setting(
        "./data", doc="data directory; one node owns it", low=1, env="DATA_DIR", flag="--data"
    )
    node_id: int = setting(
        1,
        doc="number of this node, for ever",
        unit="number",
        low=1,
        high=NODE_ID_MAX,
        env="NODE_ID",
        flag="--node-id",
    )
    shutdown_timeout_s: float = setting(
        10.0, doc="how long a clean stop may wait for requests", unit="seconds", low=0, high=600
    )


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """What all nodes of a cluster agree on; read when the cluster is created."""

    id: str = setting("kalamdb", doc="name of the cluster", check=check_id, flag="--cluster-id")
    groups: int = setting(
        8, doc="data groups of a new cluster; fixed afterwards", unit="count", low=1, high=64
    )
    secret: str | None = setting(
        None, doc="by which several nodes know each other", check=check_secret, secret=True
    )
    peers: tuple[str, ...] = setting(
        (),
        doc="node-to-node addresses of all nodes, this one's too: 1=HOST:PORT,2=HOST:PORT",
        check=check_peers,
        flag="--peers",
    )
    tls_cert: str | None = setting(
        None, doc="certificate of this node as PEM; then nodes speak TLS only", low=1
    )
    tls_key: str | None = setting(None, doc="key of the certificate as PEM", low=1)
    tls_ca: str | None = setting(
        None, doc="who signed the certificates of all nodes, and of nothing else, as PEM", low=1
    )
    replication: int = setting(
        3,
        doc="members of a group in a new cluster: 1, 3 or 5, and no more than there are nodes",
        unit="count",
        low=1,
        high=5,
    )
    join: bool = setting(
        False,
        doc="this node is new and joins a cluster that is there; it waits for CLUSTER JOIN",
        flag="--join",
    )
    balance_interval_s: float = setting(
        1.0,
        doc="a leader goes to the node that is meant to lead at most so often; 0: never by itself",
        unit="seconds",
        low=0,
        high=86_400,
    )
    replace_after_s: float = setting(
        0.0,
        doc="members of a node that is gone for so long are made elsewhere, where there are nodes"
        " enough; 0: only CLUSTER LEAVE does it",
        unit="seconds",
        low=0,
        high=31_536_000,
    )


def check_endpoint(text: str) -> str | None:
    """Tokens and secrets travel to it: https, or http on this very machine."""
    url = urlsplit(text)
    if url.username or url.password or url.query or url.fragment or not url.hostname:
        return "use https://HOST/PATH without user, query and fragment"
    local = url.hostname in ("localhost", "127.0.0.1", "::1")
    if url.scheme == "https" or (url.scheme == "http" and local):
        return None
    return "use https; http is for localhost only"


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """Sign-in by user name and password."""

    enabled: bool = setting(
        True, doc="users sign in by password; false: only at the outside issuer, setup included"
    )


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """One outside issuer of tokens (OpenID Connect)."""

    enabled: bool = setting(False, doc="tokens of the issuer are accepted")
    display_name: str = setting("Single sign-on", doc="what a sign-in page calls it", high=100)
    issuer: str | None = setting(
        None, doc="exactly what its tokens say as `iss`", check=check_endpoint
    )
    client_id: str | None = setting(None, doc="as which KalamDB is registered there", low=1)
    client_secret: str | None = setting(
        None, doc="of the client, when it is a confidential one", secret=True
    )
    audience: str | None = setting(
        None, doc="what tokens must be meant for (`aud`); the client_id when absent", low=1
    )
    scopes: tuple[str, ...] = setting(("openid", "email", "profile"), doc="what a sign-in asks for")
    jwks_file: str | None = setting(
        None, doc="its public keys as a file; read again when it changes"
    )
    jwks_uri: str | None = setting(
        None,
        doc="where its public keys are; as its discovery document says when absent",
        check=check_endpoint,
    )
    jwks_refresh_s: float = setting(
        300.0, doc="how often its keys are fetched again", unit="seconds", low=1, high=86_400
    )
    request_timeout_s: float = setting(
        5.0, doc="time of one request to the issuer", unit="seconds", low=0.1, high=60
    )
    token_lifetime_max_s: int = setting(
        86_400,
        doc="tokens that would live longer from now on are refused",
        unit="seconds",
        low=60,
        high=31_536_000,
    )
    auto_provision: bool = setting(
        False, doc="who is no user yet gets role user; else only users made WITH OIDC come in"
    )
    device_flow: bool = setting(False, doc="devices without a browser sign in through this server")


@dataclass(frozen=True, slots=True)
class AuthSettings:
    """Passwords, tokens and who may do what by default."""

    root_password: str | None = setting(
        None,
        doc="password of root at first boot",
        secret=True,
        env="ROOT_PASSWORD",
    )
    make_root_password: bool = setting(
        True, doc="make and print one at first boot when absent; else the first setup sets it"
    )
    jwt_secret: str | None = setting(
        None,
        doc="signs tokens (HS256); made and kept in the data directory when absent",
        check=check_secret,
        secret=True,
        env="JWT_SECRET",
    )
    token_lifetime_s: int = setting(
        86_400,
        doc="life of an access token; a refresh token lives 7 times as long",
        unit="seconds",
        low=1,
        high=31_536_000,
    )
    token_cache_entries: int = setting(
        10_000, doc="verified tokens remembered", unit="count", low=1, high=10_000_000
    )
    password_length_min: int = setting(
        8, doc="shortest password", unit="characters", low=1, high=256
    )
    password_length_max: int = setting(
        72, doc="longest password, in UTF-8", unit="bytes", low=8, high=1024
    )
    password_classes: bool = setting(
        False, doc="passwords need upper case, lower case, a digit and a special character"
    )
    hash_memory_kib: int = setting(
        19_456, doc="memory of one argon2id hash", unit="KiB", low=8, high=4 * MIB
    )
    hash_passes: int = setting(2, doc="passes of one argon2id hash", unit="count", low=1, high=100)
    lockout_failures: int = setting(
        5,
        doc="failed sign-ins in a row that lock a user for their address; 10 times as many from "
        "anywhere lock it for all addresses it never signed in from",
        unit="count",
        low=1,
        high=1000,
    )
    lockout_s: int = setting(
        900, doc="how long a locked user waits", unit="seconds", low=1, high=86_400
    )
    cookie_secure: bool = setting(True, doc="cookies are Secure when the request came by https")
    allow_remote_setup: bool = setting(False, doc="first setup from other machines is allowed")
    user_ddl: bool = setting(False, doc="role user may define USER and STREAM tables")
    local: LocalSettings = field(default_factory=LocalSettings)
    oidc: OidcSettings = field(default_factory=OidcSettings)


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """The audit log."""

    retention_days: int = setting(
        90, doc="how long an entry is kept", unit="days", low=1, high=3650
    )
    entries_max: int = setting(
        200_000,
        doc="entries kept; beyond them the oldest go",
        unit="count",
        low=1000,
        high=100_000_000,
    )
    interval_s: float = setting(
        0.5,
        doc="entries that nobody waits for are written this often",
        unit="seconds",
        low=0.05,
        high=60,
    )
    queue_entries: int = setting(
        10_000,
        doc="entries that wait to be written; beyond them they are counted, and the count written",
        unit="count",
        low=100,
        high=1_000_000,
    )


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """What one request may ask for. Every limit met is an error, never a silent cut."""

    max_statement_bytes: int = setting(
        MIB, doc="longest SQL text of a request", unit="bytes", low=KIB, high=MIB
    )
    max_body_bytes: int = setting(
        10 * MIB, doc="largest request body", unit="bytes", low=KIB, high=GIB
    )
    max_params: int = setting(
        10_000, doc="parameters of a statement", unit="count", low=0, high=65_535
    )
    max_param_bytes: int = setting(
        MIB, doc="size of one parameter", unit="bytes", low=64, high=64 * MIB
    )
    max_statement_rows: int = setting(
        50_000,
        doc="rows one statement or COMMIT writes; the node does nothing else while it decides them",
        unit="count",
        low=1,
        high=1_000_000,
    )
    max_result_rows: int = setting(
        100_000, doc="rows of one result", unit="count", low=1, high=100_000_000
    )
    max_result_bytes: int = setting(
        64 * MIB, doc="JSON bytes of one result", unit="bytes", low=KIB, high=4 * GIB
    )
    query_timeout_s: float = setting(
        30.0, doc="time of one scanning query", unit="seconds", low=0.001, high=86_400
    )
    query_memory_bytes: int = setting(
        256 * MIB, doc="memory of one query worker", unit="bytes", low=16 * MIB, high=256 * GIB
    )
    query_workers: int = setting(
        2, doc="processes that run scanning queries", unit="count", low=1, high=256
    )
    held_results_bytes: int = setting(
        256 * MIB,
        doc="memory of large results that wait for their clients to read on, all together; those "
        "of one user take up to half of it",
        unit="bytes",
        low=MIB,
        high=256 * GIB,
    )
    max_gathered_bytes: int = setting(
        GIB,
        doc="stored rows that one query reads of one group that another node leads",
        unit="bytes",
        low=MIB,
        high=256 * GIB,
    )
    stale_wait_s: float = setting(
        5.0,
        doc="a stale read with `min_cursor` waits so long for its replica to get there",
        unit="seconds",
        low=0,
        high=600,
    )
    result_stall_s: float = setting(
        30.0,
        doc="a client that reads nothing of a large result for so long loses it; one that reads it "
        "slower than 64 KiB/s loses it some time later",
        unit="seconds",
        low=1,
        high=3_600,
    )


@dataclass(frozen=True, slots=True)
class TransactionSettings:
    """BEGIN … COMMIT."""

    timeout_s: float = setting(
        300.0,
        doc="a transaction open for longer is rolled back",
        unit="seconds",
        low=1,
        high=86_400,
    )
    idle_timeout_s: float = setting(
        60.0,
        doc="a transaction without a statement for longer is rolled back",
        unit="seconds",
        low=1,
        high=86_400,
    )
    max_per_user: int = setting(
        100, doc="open transactions of one user", unit="count", low=1, high=100_000
    )
    max_open: int = setting(
        10_000, doc="open transactions of this node", unit="count", low=1, high=1_000_000
    )
    max_bytes: int = setting(
        100 * MIB,
        doc="memory for what one transaction wrote; what COMMIT writes is bounded at 64 MiB",
        unit="bytes",
        low=64 * KIB,
        high=4 * GIB,
    )
    max_total_bytes: int = setting(
        512 * MIB,
        doc="memory for what all open transactions wrote",
        unit="bytes",
        low=MIB,
        high=256 * GIB,
    )
    max_savepoints: int = setting(
        100, doc="savepoints of one transaction", unit="count", low=1, high=10_000
    )


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """The data disk."""

    min_free_bytes: int = setting(
        256 * MIB, doc="below this much free space writes are refused", unit="bytes", low=0
    )


@dataclass(frozen=True, slots=True)
class HotSettings:
    """The row store (LevelDB)."""

    write_buffer_bytes: int = setting(
        16 * MIB, doc="memory table before it is written out", unit="bytes", low=MIB, high=GIB
    )
    cache_bytes: int = setting(
        32 * MIB, doc="cache of table blocks", unit="bytes", low=MIB, high=256 * GIB
    )


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """Changes and superseded versions."""

    retention_hours: int = setting(
        24, doc="how long changes can be replayed", unit="hours", low=1, high=87_600
    )


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The HTTP front."""

    cors_origins: tuple[str, ...] = setting(
        (), doc="browser origins that may call; * for all; empty: same origin only"
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        doc="addresses or networks whose X-Forwarded-For is believed (loopback always is)",
        check=check_networks,
    )
    keepalive_s: float = setting(
        75.0, doc="an idle connection is closed after", unit="seconds", low=1, high=3600
    )
    max_header_bytes: int = setting(
        16 * KIB, doc="longest request line or header", unit="bytes", low=KIB, high=MIB
    )
    page: bool = setting(True, doc="the page is served at /; else / is 404")
    header_timeout_s: float = setting(
        20.0, doc="the head of a request has come within", unit="seconds", low=0.1, high=3600
    )
    body_timeout_s: float = setting(
        60.0,
        doc="the body of a request has come within, and a client takes some of its answer within",
        unit="seconds",
        low=0.1,
        high=3600,
    )
    fast_front: bool = setting(
        True, doc="SQL requests have a short way of their own; off: aiohttp serves them too"
    )


@dataclass(frozen=True, slots=True)
class WebsocketSettings:
    """Live connections."""

    auth_timeout_s: float = setting(
        3.0, doc="time to authenticate after connecting", unit="seconds", low=0.1, high=600
    )
    client_timeout_s: float = setting(
        10.0, doc="a client silent for this long is closed", unit="seconds", low=1, high=3600
    )
    heartbeat_interval_s: float = setting(
        5.0, doc="how often silence is looked for", unit="seconds", low=0.1, high=600
    )
    max_message_bytes: int = setting(
        MIB, doc="largest message of a client", unit="bytes", low=KIB, high=64 * MIB
    )
    max_connections: int = setting(
        100_000, doc="open connections of this node", unit="count", low=1, high=10_000_000
    )
    max_subscriptions_per_user: int = setting(
        1_000, doc="live queries of one user", unit="count", low=1, high=1_000_000
    )
    max_pending_bytes: int = setting(
        4 * MIB,
        doc="frames that wait in memory for one connection; beyond it changes are read from "
        "the log as the client reads, and a client that takes nothing in for 5 s is closed",
        unit="bytes",
        low=64 * KIB,
        high=GIB,
    )


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """Live queries. Most of it is about those that are evaluated anew: all but filter and
    projection of one table.
    """

    leader_timeout_s: float = setting(
        30.0,
        doc="how long a live query whose group has no leader waits for one; then it ends with its "
        "cursor",
        unit="seconds",
        low=0.1,
        high=3600,
    )
    reevaluations_per_s: float = setting(
        20.0,
        doc="how often one query is evaluated at most",
        unit="per second",
        low=0.01,
        high=1000,
    )
    query_time_share: float = setting(
        0.5,
        doc="share of one query worker's time that the live queries of one user may take; beyond "
        "it they are evaluated less often",
        unit="share",
        low=0.001,
        high=256,
    )
    query_timeout_s: float = setting(
        5.0,
        doc="time of one evaluation; others wait for it",
        unit="seconds",
        low=0.001,
        high=86_400,
    )
    query_workers: int = setting(
        1,
        doc="query workers that live queries may occupy at the same time",
        unit="count",
        low=1,
        high=256,
    )
    max_queries_per_user: int = setting(
        100, doc="such live queries of one user", unit="count", low=1, high=1_000_000
    )
    max_result_rows: int = setting(
        10_000, doc="rows of one such result", unit="count", low=1, high=10_000_000
    )
    max_result_bytes: int = setting(
        4 * MIB, doc="JSON bytes of one such result", unit="bytes", low=KIB, high=GIB
    )
    kept_result_bytes: int = setting(
        64 * MIB,
        doc="rows kept for all of them, beyond it results are put together again when needed; and "
        "again so much for rows that wait for clients to ask for the next page",
        unit="bytes",
        low=KIB,
        high=256 * GIB,
    )


@dataclass(frozen=True, slots=True)
class RateLimitSettings:
    """Request rates. Signed-in requests are limited only when `queries_per_user_per_s` is set."""

    enabled: bool = setting(True, doc="rates are limited at all")
    auth_per_ip_per_s: float = setting(
        20.0,
        doc="sign-ins and refused tokens of one address; up to 5 s worth may come at once",
        unit="requests per second",
        low=0.1,
        high=1_000_000,
    )
    queries_per_user_per_s: float = setting(
        0.0,
        doc="SQL requests of one user, 0 for no limit; up to 2 s worth may come at once",
        unit="requests per second",
        low=0,
        high=10_000_000,
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What the node says on stderr."""

    level: str = setting(
        "info", doc="least severity shown", choices=("debug", "info", "warning", "error")
    )
    requests: bool = setting(
        False, doc="a line for each SQL request; costs some 20 microseconds each"
    )
    format: str = setting(
        "json", doc="one JSON object or one text a line", choices=("json", "text")
    )
    slow_query_ms: int = setting(
        1_000,
        doc="a query that takes longer is logged and listed in system.slow_queries; 0: none is",
        unit="milliseconds",
        low=0,
        high=86_400_000,
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole tree."""

    server: ServerSettings = field(default_factory=ServerSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    auth: AuthSettings = field(default_factory=AuthSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    durability: str = setting(
        "fsync",
        doc="fsync: an answered write is on disk; os: it is with the operating system",
        choices=("fsync", "os"),
    )
    transactions: TransactionSettings = field(default_factory=TransactionSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    hot: HotSettings = field(default_factory=HotSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    websocket: WebsocketSettings = field(default_factory=WebsocketSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    rate_limit: RateLimitSettings = field(default_factory=RateLimitSettings)
    log: LogSettings = field(default_factory=LogSettings)


# ── every field by its dotted name ───────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Knob:
    """One setting as the outside names it: `server.http`, KALAMDB_SERVER_HTTP, --http."""

    key: str
    kind: Any
    default: Any
    facts: Mapping[str, Any]

    @property
    def variable(self) -> str:
        name = self.facts["env"] or self.key.replace(".", "_").upper()
        return ENVIRONMENT_PREFIX + name


def knobs(tree: type = Settings, path: str = "") -> Iterator[Knob]:
    """Every setting, in the order of the tree."""
    hints = typing.get_type_hints(tree)
    for item in dataclasses.fields(tree):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            yield from knobs(kind, f"{path}{item.name}.")
        else:
            yield Knob(f"{path}{item.name}", kind, item.default, item.metadata)


def described(settings: Settings) -> dict[str, object]:
    """Dotted name → value, secrets masked: what may be printed at start."""
    shown: dict[str, object] = {}
    for knob in knobs():
        value: Any = settings
        for name in knob.key.split("."):
            value = getattr(value, name)
        shown[knob.key] = "***" if knob.facts["secret"] and value is not None else value
    return shown
