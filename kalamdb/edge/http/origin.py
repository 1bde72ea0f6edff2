"""Where a request comes from: the client's address behind proxies, https, this machine or not.

Keeps: X-Forwarded-For is believed only from loopback and the configured proxies, and is read from
the right: the first address that is no trusted proxy is the client. What a client wrote into the
header itself stands to the left of that and is never reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Address = IPv4Address | IPv6Address


class Origins:
    """Reads addresses with a fixed list of trusted proxies (addresses or networks)."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        self._trusted: list[IPv4Network | IPv6Network] = [
            ip_network(text, strict=False) for text in trusted_proxies
        ]

    def client(self, request: web.BaseRequest) -> Address | None:
        """The client's address; None when it cannot be told (a Unix socket)."""
        return self.client_of(request.remote, _forwarded(request))

    def client_of(self, peer: str | None, forwarded: str) -> Address | None:
        """The same from the peer's address and what X-Forwarded-For says."""
        current = _parsed(peer)
        hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
        while hops and current is not None and self._trusts(current):
            named = _parsed(hops.pop())
            if named is None:
                return None
            current = named
        return current

    def key(self, request: web.BaseRequest) -> str:
        """The client's address for counting; of IPv6 the /64 that one customer has."""
        return self.key_of(request.remote, _forwarded(request))

    def key_of(self, peer: str | None, forwarded: str) -> str:
        """The same from the peer's address and what X-Forwarded-For says."""
        client = self.client_of(peer, forwarded)
        if isinstance(client, IPv6Address):
            return str(IPv6Network((client, 64), strict=False))
        return str(client)

    def is_local(self, request: web.BaseRequest) -> bool:
        """Does it come from this machine?"""
        client = self.client(request)
        return client is not None and client.is_loopback

    def is_https(self, request: web.BaseRequest) -> bool:
        peer = _parsed(request.remote)
        if peer is not None and self._trusts(peer) and "X-Forwarded-Proto" in request.headers:
            return request.headers["X-Forwarded-Proto"].strip().lower() == "https"
        return request.secure

    def _trusts(self, address: Address) -> bool:
        return address.is_loopback or any(
            address.version == network.version and address in network for network in self._trusted
        )


def _forwarded(request: web.BaseRequest) -> str:
    return ",".join(request.headers.getall("X-Forwarded-For", ()))


def _parsed(text: str | None) -> Address | None:
    try:
        address = ip_address(text or "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
