"""The address book, node → HOST:PORT of its links: as the settings give it, then as meta has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kalamdb import config
from kalamdb.config import InvalidSettings, Settings
from kalamdb.model.catalog import CatalogView


def peer_addresses(settings: Settings) -> dict[int, str]:
    """Of a node, itself included; empty for a cluster of one.

    Raises: InvalidSettings when this node is not among them. One that joins need not be.
    """
    found = config.peer_addresses(settings.cluster.peers)
    node = settings.server.node_id
    if found and node not in found and not settings.cluster.join:
        named = ", ".join(map(str, found))
        raise InvalidSettings(
            "settings", "cluster.peers", f"this is node {node}, which is not among {named}"
        )
    return found


def router_addresses(settings: Settings) -> dict[int, str]:
    """Of a router, which is none of them. Raises: InvalidSettings when there are none."""
    found = config.peer_addresses(settings.cluster.peers)
    if not found:
        raise InvalidSettings("settings", "cluster.peers", "a router needs the nodes' addresses")
    return found


LONELY_LOOKS = 10


class Links(Protocol):
    """What of `peers.Peers` is used here."""

    def set_addresses(self, addresses: Mapping[int, str]) -> None: ...

    def connected(self, node: int) -> bool: ...


class AddressBook:
    """Whom a process links to: the nodes as meta has them; as the settings do until it has them
    all. Where nobody is met there, the settings are tried in turn: all may have moved.
    """

    def __init__(self, links: Links, settled: Mapping[int, str]) -> None:
        self._links = links
        self._settled = dict(settled)
        self._addresses = dict(settled)
        self._lonely_looks = 0

    def follow(self, catalog: CatalogView) -> None:
        """Dial who came, part from who is no node any more."""
        known = {int(node.id): node.rpc for node in catalog.nodes.values() if node.holds}
        addresses = known if catalog.enrolled else {**self._settled, **known}
        self._lonely_looks = 0 if self.connected() else self._lonely_looks + 1
        if self._lonely_looks // LONELY_LOOKS % 2:
            said = {node: text for node, text in self._settled.items() if node in addresses}
            addresses = {**addresses, **said}
        if addresses != self._addresses:
            self._addresses = addresses
            self._links.set_addresses(addresses)

    def connected(self) -> list[int]:
        """The nodes that can be asked now."""
        return [node for node in self._addresses if self._links.connected(node)]
