# pyright: basic
"""What a node alone knows, as `system` tables: settings, numbers, groups, itself, the audit log.

`pyright: basic`: metrics come as prometheus_client's untyped families.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cluster.cluster_tables import duration_text, provide_cluster
from cluster.facts import ClusterFacts, OwnFacts, memory_bytes
from kalamdb import VERSION
from kalamdb.config import Settings, described, knobs
from kalamdb.lib.clock import Clock
from kalamdb.lib.observe import PREFIX, Metrics
from kalamdb.model.catalog import CatalogView
from kalamdb.ports import Groups, LogStatus
from kalamdb.query.system import Values
from kalamdb.session.audit import AuditLog
from kalamdb.session.cluster_statements import ClusterControl
from kalamdb.session.oversight import Oversight, oversight

AUDIT_PAGE = 500


def node_oversight(
    settings: Settings,
    groups: Groups,
    audit: AuditLog,
    metrics: Metrics,
    logs: Callable[[], Sequence[LogStatus]],
    *,
    clock: Clock,
    facts: ClusterFacts | None = None,
    control: ClusterControl | None = None,
) -> Oversight:
    """Everything this node shows of itself and of its cluster (`facts`; None: it is alone); live
    connections and transactions come on top.
    """
    slow_ms = settings.log.slow_query_ms
    made = oversight(
        lambda: groups.catalog,
        clock,
        node=settings.server.node_id,
        slow_s=slow_ms / 1000 if slow_ms else None,
        on_read_all=audit.on_read_all_users,
        on_kill=audit.on_kill,
        cluster=control,
        on_cluster=audit.on_cluster,
    )
    started_s = clock.monotonic_s()
    system = made.system
    system.provide("settings", lambda _: list(setting_rows(settings)))
    system.provide("audit_log", lambda _: audit_rows(audit))
    own = OwnFacts(settings.server.node_id, lambda: clock.monotonic_s() - started_s, logs)
    provide_cluster(system, lambda: groups.catalog, facts or ClusterFacts(own, None, tuple))
    system.provide(
        "stats",
        lambda _: list(
            stat_rows(settings, metrics, groups.catalog, clock.monotonic_s() - started_s)
        ),
    )
    metrics.watch("queries", made.queries.statistics)
    return made


def setting_rows(settings: Settings) -> Iterator[Values]:
    """Settings in force, secrets masked."""
    values = described(settings)
    for knob in knobs():
        value = values[knob.key]
        unit = knob.facts["unit"]
        doc = knob.facts["doc"]
        yield (
            knob.key,
            _shown(value),
            f"{doc} ({unit})" if unit else doc,
            knob.key.partition(".")[0] if "." in knob.key else "general",
        )


def _shown(value: object) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case tuple() | list():
            return ", ".join(str(part) for part in value)
        case _:
            return str(value)


def audit_rows(audit: AuditLog) -> Iterator[Values]:
    """Newest first, in pages: nobody holds the whole log."""
    before: int | None = None
    while True:
        page = audit.read(AUDIT_PAGE, before)
        for numbered in page:
            entry = numbered.entry
            yield (
                str(numbered.number),
                entry.at_ms * 1000,
                entry.actor,
                entry.action,
                entry.target,
                entry.details,
                entry.address,
                entry.subject,
            )
        if len(page) < AUDIT_PAGE:
            return
        before = page[-1].number


# ---- numbers ------------------------------------------------------------------------------------


def stat_rows(
    settings: Settings, metrics: Metrics, catalog: CatalogView, uptime_s: float
) -> Iterator[Values]:
    """The node's numbers: what /metrics shows without histogram buckets, and a few more."""
    facts: dict[str, object] = {
        "server_version": VERSION,
        "server_uptime_seconds": int(uptime_s),
        "server_uptime_human": duration_text(int(uptime_s)),
        "node_id": settings.server.node_id,
        "cluster_id": settings.cluster.id,
        "memory_bytes": memory_bytes(),
        "total_users": len(catalog.users),
        "total_namespaces": len(catalog.namespaces),
        "total_tables": len(catalog.tables),
    }
    for name, value in facts.items():
        yield name, str(value)
    for family in metrics.collect():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                continue
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            name = sample.name.removeprefix(PREFIX)
            yield f"{name}{{{labels}}}" if labels else name, f"{sample.value:g}"
