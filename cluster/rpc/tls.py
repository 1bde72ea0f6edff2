"""TLS between nodes: each end shows a certificate that the cluster's own CA signed.

Host names are not looked at: addresses of nodes change, and who a peer is, the handshake proves
inside the TLS session, bound to it.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from kalamdb.config import InvalidSettings, Settings


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    cert: str
    key: str
    ca: str


def tls_files(settings: Settings) -> TlsFiles | None:
    """None: links are plain TCP. That all or none are set, the settings have checked."""
    cluster = settings.cluster
    if cluster.tls_cert and cluster.tls_key and cluster.tls_ca:
        return TlsFiles(cluster.tls_cert, cluster.tls_key, cluster.tls_ca)
    return None


def server_side(files: TlsFiles) -> ssl.SSLContext:
    """Raises: InvalidSettings for files that cannot be used."""
    return _loaded(files, serves=True)


def client_side(files: TlsFiles) -> ssl.SSLContext:
    """Raises: InvalidSettings for files that cannot be used."""
    return _loaded(files, serves=False)


def _loaded(files: TlsFiles, *, serves: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if serves else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(files.cert, files.key)
    except (OSError, ValueError) as error:
        raise InvalidSettings("settings", "cluster.tls_cert", f"{files.cert}: {error}") from error
    try:
        context.load_verify_locations(files.ca)
    except (OSError, ValueError) as error:
        raise InvalidSettings("settings", "cluster.tls_ca", f"{files.ca}: {error}") from error
    return context
