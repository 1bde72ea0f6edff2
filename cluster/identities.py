"""Who is asking, at a node and at a router: passwords, tokens, the outside issuer, audit."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.running import running
from kalamdb.config import OidcSettings, Settings
from kalamdb.lib.clock import SystemClock, SystemIds
from kalamdb.lib.fetch import Fetch
from kalamdb.lib.observe import Metrics
from kalamdb.ports import MetaGroups
from kalamdb.session.audit import AuditLog
from kalamdb.session.auth import Authenticator
from kalamdb.session.jwks import FileKeys, IssuerKeys, UrlKeys
from kalamdb.session.outside import OutsideTokens
from kalamdb.session.passwords import PasswordRules, Passwords
from kalamdb.session.provider import Provider
from kalamdb.session.secret import token_secret
from kalamdb.store.kv import KeyReader


@dataclass(frozen=True, slots=True)
class Identities:
    """Who is asking, and what they did."""

    auth: Authenticator
    audit: AuditLog
    passwords: Passwords
    provider: Provider | None


@asynccontextmanager
async def identities(
    settings: Settings, reader: KeyReader | None, groups: MetaGroups, metrics: Metrics
) -> AsyncGenerator[Identities]:
    """Passwords, tokens, the outside issuer and the audit log. `reader`: the meta group's store;
    None at a router.
    """
    asked, clock = settings.auth, SystemClock()
    rules = PasswordRules(
        asked.password_length_min, asked.password_length_max, asked.password_classes
    )
    passwords = Passwords(rules, memory_kib=asked.hash_memory_kib, passes=asked.hash_passes)
    audit = AuditLog(groups, reader, clock, settings.audit)
    metrics.watch("audit", audit.statistics)
    secret, follows = signing_secret(settings), settings.cluster.secret is not None
    try:
        async with audited(audit), outside_issuer(asked.oidc, metrics) as issuer:
            outside = None if issuer is None else issuer.tokens
            auth = Authenticator(
                groups,
                passwords,
                clock,
                asked,
                secret=secret,
                outside=outside,
                log=audit,
                follows=follows,
            )
            provider = None if issuer is None else issuer.provider
            yield Identities(auth, audit, passwords, provider)
    finally:
        passwords.close()


@dataclass(frozen=True, slots=True)
class Issuer:
    """The outside issuer of tokens: as its client, and as whose tokens are taken."""

    provider: Provider
    tokens: OutsideTokens


@asynccontextmanager
async def outside_issuer(settings: OidcSettings, metrics: Metrics) -> AsyncGenerator[Issuer | None]:
    """Keeps the issuer's keys current; None when no issuer is configured."""
    if not settings.enabled or settings.issuer is None:
        yield None
        return
    clock = SystemClock()
    async with Fetch(settings.request_timeout_s) as fetch:
        provider = Provider(settings, fetch, clock)
        if settings.jwks_file is not None:
            source = FileKeys(Path(settings.jwks_file))
        else:
            source = UrlKeys(provider.keys, settings.jwks_refresh_s)
        keys = IssuerKeys(settings.issuer, source, clock)
        metrics.watch("issuer_keys", keys.statistics)
        async with running(keys.run()):
            yield Issuer(provider, OutsideTokens(settings, keys, clock))


@asynccontextmanager
async def audited(audit: AuditLog) -> AsyncGenerator[None]:
    """Writes the audit log as long as the node serves, and what is left of it at the end."""
    async with running(audit.run()):
        yield
    await audit.close()


def signing_secret(settings: Settings) -> bytes:
    """What signs tokens: the same at every node and router of a cluster."""
    if settings.auth.jwt_secret is None and settings.cluster.secret is not None:
        made = hmac.new(settings.cluster.secret.encode(), b"kalamdb tokens 1", "sha256")
        return made.hexdigest().encode()
    return token_secret(settings.auth, Path(settings.server.data), SystemIds())
