"""`docs/reference/settings.md`, made from the tree of settings, with what became of older keys.

Keeps: every setting is a row; every key of the reference product's `server.toml` is in `LEGACY` as
kept, renamed or not applicable, and a renamed one names a setting that exists (tested).
"""

from __future__ import annotations

import typing
from dataclasses import dataclass
from enum import Enum

from kalamdb.config import GIB, KIB, MIB, Knob, Settings, knobs

HEAD = """# Settings

A node reads its settings from a TOML file (`--config FILE` or `KALAMDB_CONFIG`), then from
`KALAMDB_*` variables, then from flags; the later wins. Every setting has a variable;
`--set key=value` sets any of them, and some have a flag of their own. An unknown key, variable or
value out of bounds stops the start with a message that says where it stands and which name comes
nearest. (Variables that Kubernetes makes for a service named `kalamdb`, such as
`KALAMDB_SERVICE_HOST`, are left alone.) The settings in force are logged at start, secrets masked.

This page is printed by `kalam settings` and checked against the code.
"""

LEGACY_HEAD = """## Keys of other servers

What became of the keys of the reference server's `server.toml`. None of them is honoured silently:
a renamed or dropped key is an unknown key, and the start stops.

| Key | Here | Instead |
| --- | --- | --- |
"""


class Fate(Enum):
    """What became of a key."""

    KEPT = "kept"
    RENAMED = "renamed"
    NONE = "not applicable"


@dataclass(frozen=True, slots=True)
class Legacy:
    """`keys` share their fate; `instead` names a setting, or says how it is done here."""

    keys: str
    fate: Fate
    instead: str


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    section = None
    for knob in knobs():
        name = knob.key.rpartition(".")[0]
        if name != section:
            section = name
            lines.append(_section(name))
        lines.append(_row(knob))
    lines.append("\n" + LEGACY_HEAD.rstrip("\n"))
    for entry in LEGACY:
        keys = ", ".join(f"`{key}`" for key in entry.keys.split())
        lines.append(f"| {keys} | {entry.fate.value} | {entry.instead} |")
    return "\n".join(lines) + "\n"


def _section(name: str) -> str:
    head = "\n| Setting | Variable and flag | Default | Meaning |\n| --- | --- | --- | --- |"
    if not name:
        return f"\n## At the top\n{head}"
    tree: typing.Any = Settings
    for branch in name.split("."):
        tree = typing.get_type_hints(tree)[branch]
    return f"\n## [{name}]\n\n{tree.__doc__}\n{head}"


def _row(knob: Knob) -> str:
    facts = knob.facts
    named = f"`{knob.variable}`" + (f" `{facts['flag']}`" if facts["flag"] else "")
    meaning = facts["doc"]
    if facts["choices"]:
        meaning += f" ({', '.join(facts['choices'])})"
    bounds = _bounds(knob)
    meaning += f"; {bounds}" if bounds else ""
    if facts["secret"]:
        meaning += "; never shown"
    return f"| `{knob.key}` | {named} | {_default(knob)} | {meaning} |"


def _bounds(knob: Knob) -> str:
    low, high, unit = knob.facts["low"], knob.facts["high"], knob.facts["unit"]
    if not unit:
        return ""
    shown = [_amount(each, unit) for each in (low, high) if each is not None]
    word = {"": "", "count": "", "number": ""}.get(unit, unit)
    between = " to ".join(shown) if low is not None and high is not None else "".join(shown)
    prefix = "at least " if high is None else ""
    return f"{prefix}{between} {word}".strip()


def _default(knob: Knob) -> str:
    value = knob.default
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple):
        words = typing.cast("tuple[object, ...]", value)
        return f"`{', '.join(map(str, words))}`"  # as a variable is written
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return _amount(value, knob.facts["unit"])
    return f"`{value}`"


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        for size, name in ((GIB, "Gi"), (MIB, "Mi"), (KIB, "Ki")):
            if value >= size and value % size == 0:
                return f"{int(value) // size:,} {name}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _kept(keys: str, instead: str = "") -> Legacy:
    return Legacy(keys, Fate.KEPT, instead or "the same name")


def _renamed(keys: str, setting: str, remark: str = "") -> Legacy:
    return Legacy(keys, Fate.RENAMED, f"`{setting}`" + (f": {remark}" if remark else ""))


def _none(keys: str, instead: str) -> Legacy:
    return Legacy(keys, Fate.NONE, instead)


LEGACY: tuple[Legacy, ...] = (
    _renamed("server.host server.port", "server.http", "HOST:PORT in one"),
    _none("server.public_origin", "the page asks the node it came from"),
    _renamed("server.ui_path", "http.page", "on or off; its path is /"),
    _none("server.workers server.enable_http2", "one event loop; HTTP/1.1"),
    _none("server.api_version", "fixed: v1"),
    _renamed("storage.data_path", "server.data"),
    _none(
        "storage.shared_tables_template storage.user_tables_template storage.remote_timeouts.*",
        "rows are kept in the row store of the data directory",
    ),
    _renamed("storage.rocksdb.block_cache_size", "hot.cache_bytes", "the row store is LevelDB"),
    _renamed("storage.rocksdb.cf_profiles.*", "hot.write_buffer_bytes", "one for all families"),
    _renamed("storage.rocksdb.sync_writes storage.rocksdb.disable_wal", "durability"),
    _none(
        "storage.rocksdb.max_background_jobs storage.rocksdb.max_open_files"
        " storage.rocksdb.compact_on_startup",
        "LevelDB compacts by itself",
    ),
    _renamed("datafusion.memory_limit", "limits.query_memory_bytes", "of each query process"),
    _renamed("datafusion.query_parallelism", "limits.query_workers"),
    _none("datafusion.max_partitions datafusion.batch_size", "chosen by the query process"),
    _none("flush.* manifest_cache.*", "rows stay in the row store"),
    _renamed(
        "retention.default_deleted_retention_hours",
        "history.retention_hours",
        "of all changes, deletes among them",
    ),
    _none("retention.enable_dba_stats retention.dba_stats_retention_days", "scrape /metrics"),
    _none("stream.default_ttl_seconds", "a STREAM table names its TTL_SECONDS"),
    _none("stream.default_max_buffer", "a slow subscriber is closed with its cursor"),
    _none("stream.eviction_interval_seconds", "expired rows are hidden at once"),
    _none("topics.visibility_timeout_secs", "there are no topics"),
    _renamed("limits.max_message_size", "limits.max_statement_bytes"),
    _renamed(
        "limits.max_query_limit limits.default_query_limit",
        "limits.max_result_rows",
        "an error above it, never a silent cut",
    ),
    _renamed("logging.level", "log.level"),
    _renamed("logging.format", "log.format", "json or text"),
    _none("logging.logs_path logging.log_to_console", "logs go to stderr"),
    _none("logging.targets logging.otlp.*", "one level for all; scrape /metrics"),
    _renamed("logging.slow_query_threshold_ms", "log.slow_query_ms"),
    _renamed(
        "performance.request_timeout execution.handler_timeout_seconds", "limits.query_timeout_s"
    ),
    _renamed("performance.keepalive_timeout", "http.keepalive_s"),
    _renamed("performance.max_header_size", "http.max_header_bytes"),
    _renamed("performance.max_connections", "websocket.max_connections"),
    _none(
        "performance.backlog performance.worker_max_blocking_threads"
        " performance.tokio_worker_threads performance.client_request_timeout"
        " performance.client_disconnect_timeout",
        "one event loop, no such pools",
    ),
    _renamed("transaction_timeout_secs", "transactions.timeout_s"),
    _renamed("max_transaction_buffer_bytes", "transactions.max_bytes"),
    _renamed("websocket.client_timeout_secs", "websocket.client_timeout_s"),
    _renamed("websocket.auth_timeout_secs", "websocket.auth_timeout_s"),
    _renamed("websocket.heartbeat_interval_secs", "websocket.heartbeat_interval_s"),
    _renamed(
        "rate_limit.max_queries_per_sec", "rate_limit.queries_per_user_per_s", "off by default"
    ),
    _renamed("rate_limit.max_subscriptions_per_user", "websocket.max_subscriptions_per_user"),
    _renamed("rate_limit.max_auth_requests_per_ip_per_sec", "rate_limit.auth_per_ip_per_s"),
    _renamed("rate_limit.enable_connection_protection", "rate_limit.enabled"),
    _renamed(
        "rate_limit.request_body_limit_bytes security.max_request_body_size",
        "limits.max_body_bytes",
    ),
    _none(
        "rate_limit.max_messages_per_sec rate_limit.max_connections_per_ip"
        " rate_limit.max_requests_per_ip_per_sec rate_limit.ban_duration_seconds",
        "only requests that are not signed in are counted by address",
    ),
    _none("rate_limit.cache_max_entries rate_limit.cache_ttl_seconds", "bounded by themselves"),
    _renamed("security.max_ws_message_size", "websocket.max_message_bytes"),
    _none("security.strict_ws_origin_check", "a strange Origin gets no WebSocket"),
    _renamed("security.trusted_proxy_ranges", "http.trusted_proxies"),
    _renamed("security.cors.allowed_origins", "http.cors_origins"),
    _none(
        "security.cors.allowed_methods security.cors.allowed_headers security.cors.max_age"
        " security.cors.expose_headers security.cors.allow_credentials"
        " security.cors.allow_private_network",
        "fixed: what the API uses",
    ),
    _kept("auth.root_password auth.jwt_secret auth.cookie_secure auth.allow_remote_setup"),
    _kept("auth.local.enabled"),
    _kept(
        "auth.oidc.enabled auth.oidc.display_name auth.oidc.issuer auth.oidc.client_id"
        " auth.oidc.client_secret auth.oidc.scopes auth.oidc.auto_provision"
    ),
    _renamed("auth.oidc.broker_device_flow_enabled", "auth.oidc.device_flow"),
    _none("auth.oidc.device_authorization_endpoint", "as the discovery document says"),
    _renamed("auth.jwt_trusted_issuers", "auth.oidc.issuer", "one outside issuer"),
    _renamed("oauth.enabled oauth.auto_provision", "auth.oidc.enabled", "and `auto_provision`"),
    _none(
        "auth.oidc.default_role oauth.default_role",
        "who is provisioned has role user; others are made WITH OIDC",
    ),
    _renamed("oauth.providers.*", "auth.oidc.issuer", "one provider"),
    _renamed("auth.jwt_expiry_hours", "auth.token_lifetime_s"),
    _renamed("auth.min_password_length", "auth.password_length_min"),
    _renamed("auth.max_password_length", "auth.password_length_max"),
    _renamed("auth.bcrypt_cost", "auth.hash_passes", "argon2id, with `auth.hash_memory_kib`"),
    _renamed("auth.enforce_password_complexity", "auth.password_classes"),
    _none("auth.pg_auth_token postgres_wire.*", "there is no PostgreSQL port"),
    _none("user_management.*", "DROP USER takes effect at once"),
    _none("files.*", "there are no FILE columns"),
    _none("jobs.*", "background work bounds itself"),
    _renamed("execution.max_parameters", "limits.max_params"),
    _renamed("execution.max_parameter_size_bytes", "limits.max_param_bytes"),
    _none(
        "execution.sql_plan_cache_max_entries execution.sql_plan_cache_ttl_seconds",
        "bounded; entries follow the catalog's version",
    ),
    _renamed("shutdown.flush.timeout", "server.shutdown_timeout_s"),
    _renamed("cluster.cluster_id", "cluster.id"),
    _renamed("cluster.node_id", "server.node_id"),
    _renamed("cluster.rpc_addr", "server.rpc"),
    _renamed("cluster.api_addr", "server.http"),
    _renamed("cluster.user_shards cluster.shared_shards", "cluster.groups", "one set for all"),
    _kept("cluster.peers", "a list of `ID=HOST:PORT`"),
    _none("cluster.peer_wait_*", "nodes look for each other until they are there"),
    _none(
        "cluster.heartbeat_interval_ms cluster.election_timeout_ms cluster.snapshot_policy"
        " cluster.max_snapshots_to_keep cluster.replication_timeout_ms"
        " cluster.reconnect_interval_ms",
        "fixed",
    ),
    _renamed("rpc_tls.*", "cluster.tls_cert", "with `cluster.tls_key` and `cluster.tls_ca`"),
)
