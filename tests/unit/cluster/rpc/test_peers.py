"""Links between processes over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest
import structlog
import uvloop

from cluster.rpc import link, peers
from cluster.rpc.port import Peer, RpcStream
from kalamdb.config import InvalidSettings
from kalamdb.errors import Indeterminate, Unavailable
from tests.unit.cluster.rpc.certificates import Authority
from tests.unit.cluster.rpc.house import SECRET, House
from tests.waiting import wait_until


async def echo(peer: Peer, payload: bytes) -> bytes:
    return payload + peer.name.encode()[:4]


@asynccontextmanager
async def lived_in(*houses: House) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for house in houses:
            house.peers.on_call("echo", echo)
            await stack.enter_async_context(house.peers)
        yield


def reasons(logged: Sequence[Mapping[str, object]], event: str = "link_refused") -> list[str]:
    return [str(entry["reason"]) for entry in logged if entry["event"] == event]


async def test_all_that_dial_each_other_have_one_link_and_talk() -> None:
    houses = {node: House(node) for node in (1, 2, 3)}
    router = House(None)
    async with lived_in(*houses.values(), router):
        for house in [*houses.values(), router]:
            house.book(houses)
        for node, house in houses.items():
            await house.wait_linked(*(other for other in houses if other != node))
        await router.wait_linked(*houses)
        for node, house in houses.items():
            for other in houses:
                if other != node:
                    assert await house.peers.call(other, "echo", b"x", 5.0) == b"xnode"
                    assert house.peers.send(other, b"frame")
            assert await router.peers.call(node, "echo", b"x", 5.0) == b"xrout"
            with pytest.raises(Unavailable, match="not connected"):
                await house.peers.call(node, "echo", b"x", 5.0)
        for node, house in houses.items():
            others = [other for other in houses if other != node]
            assert sorted(house.events) == [f"+{other}" for other in others]
            await wait_until(lambda house=house: len(house.frames) == 2, what="frames arrive")
            assert [fact.node for fact in house.peers.links()] == [*others, None]
            assert house.peers.statistics().links_lost_total == 0


async def test_both_dial_at_once_again_and_again_and_have_the_same_link() -> None:
    one, two = House(1), House(2)
    for _ in range(15):
        async with lived_in(one, two):
            one.book({2: two})
            two.book({1: one})
            await one.wait_linked(2)
            await two.wait_linked(1)
            # A link each side takes for another one would answer nothing.
            assert await one.peers.call(2, "echo", b"x", 5.0) == b"xnode"
            assert await two.peers.call(1, "echo", b"x", 5.0) == b"xnode"
            assert one.events == ["+2"]
            assert two.events == ["+1"]
            [here], [there] = one.peers.links(), two.peers.links()
            assert here.dialled != there.dialled
        one, two = House(1), House(2)


async def test_a_node_that_starts_anew_is_linked_anew() -> None:
    one, two = House(1), House(2)
    async with lived_in(one):
        async with lived_in(two):
            one.book({2: two})
            await one.wait_linked(2)
            address = two.address
            asked = asyncio.gather(one.peers.call(2, "echo", b"x", 5.0), return_exceptions=True)
        assert (await asked)[0] == b"xnode" or isinstance((await asked)[0], Indeterminate)
        await wait_until(lambda: one.events == ["+2", "-2"], what="the loss is noticed")
        with pytest.raises(Unavailable):
            await one.peers.call(2, "echo", b"x", 5.0)
        assert not one.peers.send(2, b"frame")
        async with lived_in(House(2, listen=address)):
            await one.wait_linked(2)
            assert await one.peers.call(2, "echo", b"x", 5.0) == b"xnode"
            assert one.events == ["+2", "-2", "+2"]


async def test_the_address_book_changes_at_run_time() -> None:
    one, two, three = House(1), House(2), House(3)
    async with lived_in(one, two, three):
        one.peers.set_addresses({2: "127.0.0.1:1", 3: three.address})
        await one.wait_linked(3)
        one.peers.set_addresses({2: two.address})
        await one.wait_linked(2)
        await wait_until(lambda: three.events == ["+1", "-1"], what="node 3 is let go")
        assert not one.peers.connected(3)
        assert [fact.peer for fact in one.peers.links()] == ["node 2"]


@pytest.mark.parametrize(
    ("other", "here", "there"),
    [
        (House(2, secret=SECRET[::-1]), "cluster.secret differs", "does not know cluster.secret"),
        (House(2, cluster="other"), "of cluster 'other', this is 'test'", "of cluster 'test'"),
        (House(3), "it is node 3, node 2 was expected", "it wants node 2, this is node 3"),
        (
            House(2, may_join=lambda node, uuid: f"{node} has disk {uuid.int}"),
            "it refused: '1 has disk 1001'",
            "1 has disk 1001",
        ),
    ],
)
async def test_who_does_not_belong_is_refused_and_both_sides_say_why(
    other: House, here: str, there: str
) -> None:
    one = House(1)
    with structlog.testing.capture_logs() as logged:
        async with lived_in(one, other):
            one.peers.set_addresses({2: other.address})
            await wait_until(lambda: len(reasons(logged)) >= 2, what="both sides say so")
            assert not one.peers.connected(2)
            assert (one.events, other.events) == ([], [])
    said = reasons(logged)
    assert any(here in reason for reason in said), said
    assert any(there in reason for reason in said), said
    assert not any(SECRET in str(entry) for entry in logged)


async def test_a_node_with_another_disk_is_refused_by_who_it_dials() -> None:
    def known(node: int, uuid: UUID) -> str | None:
        return None if uuid == UUID(int=5) else f"node {node} was known with another disk"

    one, two = House(1), House(2, may_join=known)
    with structlog.testing.capture_logs() as logged:
        async with lived_in(one, two):
            two.book({1: one})
            await wait_until(lambda: len(reasons(logged)) >= 2, what="both sides say so")
            assert not two.peers.connected(1)
    assert any("node 1 was known with another disk" in reason for reason in reasons(logged))


async def test_a_refused_dialler_backs_off_and_logs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("cluster.rpc.dialling.BACKOFF_S_MIN", 0.01)
    monkeypatch.setattr("cluster.rpc.dialling.BACKOFF_S_MAX", 0.04)
    timeout = asyncio.timeout

    def noted(delay_s: float) -> asyncio.Timeout:
        pauses.append(delay_s)
        return timeout(delay_s)

    monkeypatch.setattr("cluster.rpc.dialling.asyncio.timeout", noted)
    one, two = House(1), House(2, secret=SECRET[::-1])
    with structlog.testing.capture_logs() as logged:
        async with lived_in(one, two):
            one.book({2: two})
            await wait_until(
                lambda: two.peers.statistics().links_refused_total >= 6, what="it is refused often"
            )
    assert len(reasons(logged)) == 2
    waits = [pause for pause in pauses if pause < 1]
    assert max(waits) <= 0.05
    assert waits[0] < waits[1] < waits[2]


async def test_an_address_where_nobody_is_is_said_once() -> None:
    one = House(1)
    with structlog.testing.capture_logs() as logged:
        async with lived_in(one):
            one.peers.set_addresses({2: "127.0.0.1:1", 3: "no-such-host.invalid:9189"})
            await wait_until(lambda: len(reasons(logged, "dial_failed")) == 2, what="both are said")


async def test_a_router_that_sends_frames_of_the_log_is_cut_off() -> None:
    one, router = House(1), House(None)
    async with lived_in(one, router):
        router.book({1: one})
        await router.wait_linked(1)
        with structlog.testing.capture_logs() as logged:
            assert router.peers.send(1, b"frame")
            await wait_until(lambda: "-1" in router.events, what="the link is closed")
        assert one.frames == []
        assert any("frame of the log" in reason for reason in reasons(logged, "link_lost"))
        await router.wait_linked(1)


async def test_a_frame_the_log_does_not_know_ends_the_link() -> None:
    one, two = House(1), House(2)
    async with lived_in(one, two):
        one.book({2: two})
        await two.wait_linked(1)
        assert one.peers.send(2, b"broken")
        await wait_until(lambda: two.events[:2] == ["+1", "-1"], what="the link is closed")
        await two.wait_linked(1)


async def connected_socket(house: House) -> socket.socket:
    host, _, port = house.address.rpartition(":")
    raw = socket.socket()
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
    return raw


async def test_who_says_nothing_or_too_much_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "TIMEOUT_S", 0.1)
    one = House(1)
    loop = asyncio.get_running_loop()
    with structlog.testing.capture_logs() as logged:
        async with lived_in(one):
            slow, chatty = await connected_socket(one), await connected_socket(one)
            with slow, chatty:
                await loop.sock_sendall(slow, b"\x00\xa0\x01KLMD")
                await loop.sock_sendall(chatty, b"x" * 100_000)
                assert await loop.sock_recv(slow, 10) == b""
                with pytest.raises(ConnectionError):
                    while await loop.sock_recv(chatty, 10) != b"":
                        pass
                    raise ConnectionResetError
            await wait_until(lambda: len(reasons(logged)) == 2, what="both are said")
    assert any("longer than" in reason for reason in reasons(logged))
    assert any("more than a handshake" in reason for reason in reasons(logged))


async def test_strangers_do_not_keep_nodes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "UNPROVEN_MAX", 4)
    one, two = House(1), House(2)
    async with lived_in(one, two):
        strangers = [await connected_socket(one) for _ in range(8)]
        await wait_until(
            lambda: one.peers.statistics().links_refused_total == 4, what="the oldest are let go"
        )
        two.book({1: one})
        await two.wait_linked(1)
        for stranger in strangers:
            stranger.close()


async def test_a_large_stream_to_a_slow_reader_holds_little_and_calls_pass_it() -> None:
    one, two = House(1), House(2)
    sent: list[int] = []

    async def pour(peer: Peer, payload: bytes, stream: RpcStream) -> None:
        for number in range(200):
            await stream.send(bytes(100_000))
            sent.append(number)

    two.peers.on_stream("pour", pour)
    async with lived_in(one, two):
        one.book({2: two})
        await one.wait_linked(2)
        stream = await one.peers.open(2, "pour", b"")
        await wait_until(lambda: len(sent) > 5, what="the stream flows")
        for _ in range(20):
            assert await one.peers.call(2, "echo", b"x", 5.0) == b"xnode"
        assert len(sent) <= 13  # the window, and nobody reads
        got = 0
        while (data := await stream.receive()) is not None:
            got += len(data)
        assert got == 20_000_000


async def test_stopping_is_quick_and_tells_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.rpc.calls.STREAM_GRACE_S", 3600.0)
    one, two = House(1), House(2)
    begun = asyncio.Event()

    async def wait(peer: Peer, payload: bytes) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    async def deaf(peer: Peer, payload: bytes, stream: RpcStream) -> None:
        await asyncio.Event().wait()

    two.peers.on_call("wait", wait)
    two.peers.on_stream("deaf", deaf)
    async with lived_in(one):
        async with lived_in(two):
            one.book({2: two})
            await one.wait_linked(2)
            stream = await one.peers.open(2, "deaf", b"")
            asked = asyncio.gather(one.peers.call(2, "wait", b"", 60.0), return_exceptions=True)
            await begun.wait()
        [error] = await asked
        assert isinstance(error, Indeterminate)
        with pytest.raises(Unavailable):
            await stream.receive()


async def test_an_address_that_is_taken_is_an_error() -> None:
    one = House(1)
    async with lived_in(one):
        with pytest.raises(OSError, match="in use"):
            async with House(2, listen=one.address).peers:
                pass


async def test_tls_links_are_made_between_certificates_of_one_authority(tmp_path: Path) -> None:
    ours, other = Authority(tmp_path, "ours"), Authority(tmp_path, "other")
    one, two = House(1, files=ours.files("one")), House(2, files=ours.files("two"))
    router = House(None, files=ours.files("router"))
    plain, foreign = House(3), House(4, files=other.files("four"))
    with structlog.testing.capture_logs() as logged:
        async with lived_in(one, two, router, plain, foreign):
            for house in (one, two, router, plain, foreign):
                house.book({1: one, 2: two})
            await one.wait_linked(2)
            await router.wait_linked(1, 2)
            assert await one.peers.call(2, "echo", b"x" * 300_000, 5.0) == b"x" * 300_000 + b"node"
            assert await router.peers.call(2, "echo", b"x", 5.0) == b"xrout"
            assert all(fact.tls for fact in one.peers.links())
            one.peers.set_addresses({2: two.address, 3: plain.address})
            await wait_until(
                lambda: any("speaks TLS" in reason for reason in reasons(logged)),
                what="the plain node says why",
            )
            for house in (plain, foreign):
                assert house.events == []
            assert {fact.node for fact in one.peers.links()} == {2, None}


def test_tls_files_that_cannot_be_used_are_an_error_of_the_settings(tmp_path: Path) -> None:
    files = Authority(tmp_path, "ours").files("one")
    Path(files.key).write_text("no key", encoding="utf-8")
    with pytest.raises(InvalidSettings, match="tls_cert"):
        House(1, files=files)
    files = Authority(tmp_path, "ours").files("one")
    Path(files.ca).unlink()
    with pytest.raises(InvalidSettings, match="tls_ca"):
        House(1, files=files)


@pytest.mark.parametrize(
    "scene",
    [
        test_all_that_dial_each_other_have_one_link_and_talk,
        test_both_dial_at_once_again_and_again_and_have_the_same_link,
        test_a_node_that_starts_anew_is_linked_anew,
        test_a_large_stream_to_a_slow_reader_holds_little_and_calls_pass_it,
    ],
)
def test_the_same_on_the_loop_of_the_server(scene: Callable[[], Awaitable[None]]) -> None:
    async def played() -> None:
        await scene()

    uvloop.run(played())


def test_tls_on_the_loop_of_the_server(tmp_path: Path) -> None:
    uvloop.run(
        test_tls_links_are_made_between_certificates_of_one_authority(tmp_path),
    )
