"""The tables nobody stores: `system.*` and `information_schema.*`, their columns and their readers.

A virtual table is bound like any other, so it joins, filters and sorts; its rows are made when a
query opens it (`query/system.py`). Names and order of columns follow what clients of this kind of
database ask for; a table that a node has nothing to say about is not in the list.

Keeps: who may read a table stands beside its columns; `system` is for dba and system only,
`information_schema` is for all and shows each role what it may read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from kalamdb.errors import UnknownTable, Unsupported
from kalamdb.model.ids import TableId
from kalamdb.model.principal import Role
from kalamdb.model.table import Column, TableDef, TableKind
from kalamdb.model.types import BIGINT, BOOLEAN, DOUBLE, INT, TEXT, TIMESTAMP, ColumnType, Kind

SYSTEM = "system"
INFORMATION_SCHEMA = "information_schema"
PG_CATALOG = "pg_catalog"
VIRTUAL_NAMESPACES = frozenset((SYSTEM, INFORMATION_SCHEMA, PG_CATALOG))
CATALOG_NAME = "kalam"
"""What `table_catalog` says everywhere: there is one database."""

FIRST_ID = 0xFFFF_0000  # above every id a stored table is ever given


@dataclass(frozen=True)
class VirtualTable(TableDef):
    """A table whose rows are made when it is read. `readers`: the least role that may."""

    readers: Role = Role.DBA

    @cached_property
    def readable(self) -> tuple[Column, ...]:
        """Its own columns: there are no versions of these rows."""
        return self.columns


_TYPES: Mapping[str, ColumnType] = {
    "text": TEXT,
    "int": INT,
    "smallint": ColumnType(Kind.SMALLINT),
    "bigint": BIGINT,
    "double": DOUBLE,
    "bool": BOOLEAN,
    "time": TIMESTAMP,
    "json": ColumnType(Kind.JSON),
}

_SYSTEM = {
    "audit_log": """audit_id! timestamp!:time actor_user_id! action! target! details ip_address
        subject_user_id""",
    "cluster": """cluster_id! node_id!:bigint role! status! rpc_addr! api_addr! is_self!:bool
        is_leader!:bool groups_leading!:int total_groups!:int current_term:bigint
        last_applied_log:bigint leader_last_log_index:bigint snapshot_index:bigint
        catchup_progress_pct:smallint replication_lag:bigint hostname version
        memory_usage_mb:bigint cpu_usage_percent:double uptime_seconds:bigint uptime_human os
        arch uuid connected!:bool members!:int last_heard:time since:time""",
    "cluster_groups": """group_id!:bigint cluster_id! node_id!:bigint group_type!
        current_term:bigint vote:json last_log_index:bigint last_applied:bigint snapshot:bigint
        purged:bigint committed:bigint state current_leader:bigint
        millis_since_quorum_ack:bigint voters!:json learners!:json wished!:json""",
    "cluster_links": """node_id!:bigint peer_node_id:bigint peer! address! dialled!:bool tls!:bool
        since!:time rtt_ms:double bytes_in!:bigint bytes_out!:bigint buffered_bytes!:bigint
        requests!:int streams!:int""",
    "cluster_moves": """kind! group_id!:bigint slot:int source:bigint target!:bigint state!
        keys_done!:bigint keys_total!:bigint bytes_done!:bigint bytes_total!:bigint
        started_at!:time updated_at!:time eta_seconds:double""",
    "columns": """namespace_id! table_name! version!:bigint column_id!:bigint column_name! comment
        data_type! default_value ordinal!:int nullable!:bool primary_key!:bool
        primary_key_pos:int""",
    "datatypes": "arrow_type! kalam_type! sql_name! description!",
    "indexes": """namespace_id! table_name! index_name! is_unique!:bool columns!:json state!
        constraint_name""",
    "live": """live_id! connection_id! subscription_id! namespace_id table_name user_id! query!
        options:json status! created_at!:time last_update:time changes:bigint node_id!:bigint
        last_ping_at:time""",
    "namespaces": "namespace_id! name! created_at!:time options:json table_count!:int",
    "queries": """query_id! user_id! actor_id! state! kind! started_at!:time elapsed_ms!:bigint
        query! node_id!:bigint""",
    "schemas": """table_id! table_name! namespace_id! table_type! created_at!:time
        schema_version!:int columns!:json table_comment updated_at:time options:json access_level
        is_latest!:bool storage_id use_user_storage:bool indexes:json""",
    "sessions": """session_id! backend_pid:bigint current_schema state! transaction_id
        transaction_state transaction_has_writes:bool client_addr transport! opened_at!:time
        last_seen_at:time last_method user_id node_id!:bigint""",
    "settings": "name! value description! category!",
    "slow_queries": """timestamp!:time duration_ms!:double user_id! actor_id! kind! query!
        row_count:bigint outcome!""",
    "stats": "metric_name! metric_value!",
    "tables": """namespace_id! table_name! table_type! storage_id version!:bigint options:json
        comment updated_at:time created_at!:time""",
    "transactions": """transaction_id! owner_id! origin! state! age_ms!:bigint idle_ms!:bigint
        write_count!:bigint write_bytes!:bigint touched_tables_count!:bigint
        snapshot_commit_seq:bigint node_id!:bigint""",
    "users": """user_id! password_hash! role! email auth_type! auth_data:json storage_mode
        storage_id failed_login_attempts:int locked_until:time last_login_at:time
        created_at!:time updated_at!:time last_seen:time deleted_at:time""",
    "views": "namespace_id! view_name! definition! created_at!:time",
}

_INFORMATION = {
    "schemata": """catalog_name! schema_name! schema_owner default_character_set_catalog
        default_character_set_schema default_character_set_name sql_path""",
    "tables": """table_catalog! table_schema! table_name! table_type!
        self_referencing_column_name reference_generation user_defined_type_catalog
        user_defined_type_schema user_defined_type_name is_insertable_into! is_typed!
        commit_action kdb_namespace_id kdb_table_type kdb_storage_id kdb_version:bigint
        kdb_options:json kdb_comment kdb_updated_at:time kdb_created_at:time""",
    "columns": """table_catalog! table_schema! table_name! column_name! ordinal_position!:int
        column_default is_nullable! data_type! character_maximum_length:int
        character_octet_length:int numeric_precision:int numeric_precision_radix:int
        numeric_scale:int datetime_precision:int interval_type interval_precision:int
        character_set_catalog character_set_schema character_set_name collation_catalog
        collation_schema collation_name domain_catalog domain_schema domain_name udt_catalog!
        udt_schema! udt_name! scope_catalog scope_schema scope_name maximum_cardinality:int
        dtd_identifier! is_self_referencing! is_identity! identity_generation identity_start
        identity_increment identity_maximum identity_minimum identity_cycle is_generated!
        generation_expression is_updatable! kdb_data_type! kdb_namespace_id! kdb_version!:bigint
        kdb_column_id!:bigint kdb_comment kdb_default_value kdb_primary_key!:bool
        kdb_primary_key_pos:int""",
    "views": """table_catalog! table_schema! table_name! view_definition check_option!
        is_updatable! is_insertable_into! is_trigger_updatable! is_trigger_deletable!
        is_trigger_insertable_into!""",
    "table_constraints": """constraint_catalog! constraint_schema! constraint_name!
        table_catalog! table_schema! table_name! constraint_type! is_deferrable!
        initially_deferred! enforced! nulls_distinct""",
    "key_column_usage": """constraint_catalog! constraint_schema! constraint_name! table_catalog!
        table_schema! table_name! column_name! ordinal_position!:int
        position_in_unique_constraint:int""",
    "constraint_column_usage": """table_catalog! table_schema! table_name! column_name!
        constraint_catalog! constraint_schema! constraint_name!""",
    "check_constraints": """constraint_catalog! constraint_schema! constraint_name!
        check_clause!""",
    "referential_constraints": """constraint_catalog! constraint_schema! constraint_name!
        unique_constraint_catalog unique_constraint_schema unique_constraint_name match_option!
        update_rule! delete_rule!""",
}

_KEYED = frozenset(
    ("audit_log", "live", "namespaces", "queries", "schemas", "sessions", "transactions", "users")
)
"""Tables of `system` whose first column is their key; only result flags say so."""


def _columns(text: str) -> Iterator[Column]:
    """`name[!][:type]` …, `!` for NOT NULL, TEXT without a type."""
    for number, entry in enumerate(text.split(), 1):
        name, _, kind = entry.partition(":")
        yield Column(number, name.rstrip("!"), _TYPES[kind or "text"], not name.endswith("!"))


def _made() -> Iterator[VirtualTable]:
    number = FIRST_ID
    for namespace, readers, specs in (
        (SYSTEM, Role.DBA, _SYSTEM),
        (INFORMATION_SCHEMA, Role.USER, _INFORMATION),
    ):
        for name, text in specs.items():
            columns = tuple(_columns(text))
            keyed = namespace == SYSTEM and name in _KEYED
            yield VirtualTable(
                TableId(number),
                namespace,
                name,
                TableKind.SHARED,
                columns,
                (columns[0].id,) if keyed else (),
                readers=readers,
            )
            number += 1


VIRTUAL_TABLES: Mapping[tuple[str, str], VirtualTable] = {
    (table.namespace, table.name): table for table in _made()
}


VIRTUAL_BY_ID: Mapping[TableId, VirtualTable] = {
    table.id: table for table in VIRTUAL_TABLES.values()
}


def virtual_table(namespace: str, name: str) -> VirtualTable:
    """Raises UnknownTable; Unsupported for pg_catalog."""
    if namespace == PG_CATALOG:
        raise Unsupported(
            f"table {PG_CATALOG}.{name}", "information_schema describes the tables you may read"
        )
    found = VIRTUAL_TABLES.get((namespace, name))
    if found is None:
        raise UnknownTable(f"{namespace}.{name}")
    return found
