"""The address book and TLS files as settings give them."""

from __future__ import annotations

import pytest

from cluster.rpc.addresses import peer_addresses, router_addresses
from cluster.rpc.tls import TlsFiles, tls_files
from kalamdb.config import InvalidSettings, Settings, described
from kalamdb.lib.settings import read, read_command_line

SECRET = "of-the-tests 0123456789 abcdefghij"
THREE = "1=10.0.0.1:9189, 2=db2.example.com:9189,3=[fd00::3]:9189"


def settings(peers: str, **more: str) -> Settings:
    given = {"cluster.peers": peers, "cluster.secret": SECRET}
    return read(given | {key.replace("__", "."): value for key, value in more.items()}, {})


def test_the_address_book() -> None:
    book = {1: "10.0.0.1:9189", 2: "db2.example.com:9189", 3: "[fd00::3]:9189"}
    assert peer_addresses(settings(THREE)) == book
    assert router_addresses(settings(THREE, server__node_id="77")) == book
    assert peer_addresses(Settings()) == {}


def test_peers_come_from_the_flag_and_the_environment() -> None:
    environment = {"KALAMDB_CLUSTER_SECRET": SECRET, "KALAMDB_CLUSTER_PEERS": THREE}
    by_flag = read_command_line("x", ["--peers", THREE], {"KALAMDB_CLUSTER_SECRET": SECRET})
    assert by_flag.cluster.peers == read({}, environment).cluster.peers
    assert SECRET not in str(described(by_flag))


@pytest.mark.parametrize(
    ("peers", "complaint"),
    [
        ("1=a:1,1=b:1", "node 1 is named twice"),
        ("1=a:1,2=a:1", "a:1 is the address of two nodes"),
        ("a:1", "'a:1' is not NODE=HOST:PORT"),
        ("one=a:1", "'one=a:1' is not NODE=HOST:PORT"),
        ("²=a:1", "is not NODE=HOST:PORT"),
        ("0=a:1", "nodes are numbered from 1"),
        ("1000001=a:1", "nodes are numbered from 1"),
        ("1=a", "'a' is not HOST:PORT"),
        ("1=a:70000", "'a:70000' is not HOST:PORT"),
        ("1=a:0", "cannot reach port 0"),
        ("1=:9189", "':9189' is not HOST:PORT"),
    ],
)
def test_what_is_wrong_is_named(peers: str, complaint: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        settings(peers)
    assert refused.value.key == "cluster.peers"
    assert complaint in refused.value.complaint


def test_a_node_is_among_its_peers_unless_it_joins() -> None:
    with pytest.raises(InvalidSettings, match="this is node 4, which is not among 1, 2, 3"):
        peer_addresses(settings(THREE, server__node_id="4"))
    assert len(peer_addresses(settings(THREE, server__node_id="4", cluster__join="true"))) == 3
    with pytest.raises(InvalidSettings, match="a router needs"):
        router_addresses(Settings())


def test_peers_need_a_secret_and_tls_needs_all_its_files() -> None:
    with pytest.raises(InvalidSettings, match="is needed by"):
        read({"cluster.peers": THREE}, {})
    assert tls_files(settings(THREE)) is None
    files = {"cluster__tls_cert": "c", "cluster__tls_key": "k", "cluster__tls_ca": "a"}
    assert tls_files(settings(THREE, **files)) == TlsFiles("c", "k", "a")
    for name in files:
        with pytest.raises(InvalidSettings) as refused:
            settings(THREE, **{key: value for key, value in files.items() if key != name})
        assert refused.value.key == name.replace("__", ".")
