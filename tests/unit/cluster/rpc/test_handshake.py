"""The handshake, message by message, and those who try to get past it."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.rpc.handshake import (
    HELD_BYTES_MAX,
    Handshake,
    Identity,
    Proven,
    Refusal,
    Refused,
    Speaker,
)
from kalamdb.lib.clock import SystemIds

SECRET = "of-the-tests 0123456789 abcdefghij"
ONE = Identity("test", 1, UUID(int=1))
TWO = Identity("test", 2, UUID(int=2))
ROUTER = Identity("test", None, UUID(int=9))


def speaker(identity: Identity, secret: str = SECRET, refused: str | None = None) -> Speaker:
    return Speaker(identity, secret, SystemIds(), lambda node, uuid: refused)


def welcome(peer: Proven) -> Refusal | None:
    return None


def dialler(who: Speaker, wanted: int = 2, binding: bytes = b"") -> Handshake:
    return Handshake(who, wanted, binding, welcome)


def acceptor(who: Speaker, binding: bytes = b"") -> Handshake:
    return Handshake(who, None, binding, welcome)


def shake(one: Handshake, two: Handshake) -> list[Refused]:
    """Carry messages until both are done or have given up; what each refused with."""
    refusals: list[Refused] = []
    ends, data = [two, one], one.begin()
    while data and len(refusals) < 2:
        try:
            data = ends[0].feed(data)
        except Refused as refused:
            refusals.append(refused)
            data = refused.answer
        ends.reverse()
    return refusals


@pytest.mark.parametrize("first", [ONE, ROUTER])
def test_two_of_one_cluster_know_each_other(first: Identity) -> None:
    one, two = speaker(first), speaker(TWO)
    here, there = dialler(one), acceptor(two)
    assert shake(here, there) == []
    assert here.peer == Proven(TWO, two.incarnation)
    assert there.peer == Proven(first, one.incarnation)


def test_frames_behind_the_handshake_are_not_lost() -> None:
    here, there = dialler(speaker(ONE)), acceptor(speaker(TWO))
    ready = here.feed(there.feed(here.feed(there.feed(here.begin()))))
    large = bytes(100_000)
    assert there.feed(ready + large) == b""
    assert there.rest == large


def test_messages_may_come_byte_by_byte() -> None:
    here, there = dialler(speaker(ONE)), acceptor(speaker(TWO))
    data, ends = here.begin(), [there, here]
    while data:
        data = b"".join(ends[0].feed(data[at : at + 1]) for at in range(len(data)))
        ends.reverse()
    assert here.peer is not None
    assert there.peer is not None


def test_the_secret_is_not_sent() -> None:
    here, there = dialler(speaker(ONE)), acceptor(speaker(TWO))
    data = here.begin()
    for end in (there, here, there, here):
        assert SECRET.encode() not in data
        data = end.feed(data)


@pytest.mark.parametrize(
    ("first", "second", "wanted", "reasons"),
    [
        (replace(ONE, cluster="other"), TWO, 2, ["of cluster 'other'", "of cluster 'test'"]),
        (ONE, TWO, 3, ["wants node 3, this is node 2", "it is node 2, node 3 was expected"]),
        (replace(ONE, node=2), TWO, 2, ["it says that it is node 2", "it says that it is node 2"]),
        (ONE, ROUTER, 2, ["wants node 2, this is a router", "it is a router, node 2 was expected"]),
    ],
)
def test_each_side_says_what_differs(
    first: Identity, second: Identity, wanted: int, reasons: list[str]
) -> None:
    refusals = shake(dialler(speaker(first), wanted), acceptor(speaker(second)))
    assert len(refusals) == 2
    for refused, reason in zip(refusals, reasons, strict=True):
        assert reason in refused.reason
        assert not refused.quiet


def test_another_secret_is_refused_on_both_sides() -> None:
    here, there = dialler(speaker(ONE)), acceptor(speaker(TWO, SECRET[::-1]))
    there_says, here_says = shake(here, there)
    assert "cluster.secret" in there_says.reason
    assert "cluster.secret differs" in here_says.reason
    assert here.peer is None
    assert there.peer is None


def test_another_version_is_named() -> None:
    here, there = dialler(speaker(ONE)), acceptor(speaker(TWO))
    hello = bytearray(here.begin())
    assert hello[7:9] == b"\x00\x01"
    hello[8] = 9
    with pytest.raises(Refused, match="version 9 between nodes, this side 1") as refused:
        there.feed(bytes(hello))
    # The answer holds this side's hello, from which an older dialler reads the version.
    assert b"KLMD\x00\x01" in refused.value.answer


def test_a_node_that_may_not_join_learns_why() -> None:
    here, there = dialler(speaker(ONE)), acceptor(speaker(TWO, refused="node 1 has another disk"))
    there_says, here_says = shake(here, there)
    assert there_says.reason == "node 1 has another disk"
    assert "node 1 has another disk" in here_says.reason
    here, there = dialler(speaker(ONE, refused="node 2 has left")), acceptor(speaker(TWO))
    here_says, there_says = shake(here, there)
    assert here_says.reason == "node 2 has left"
    assert there.peer is None


def test_a_second_link_is_refused_without_noise() -> None:
    here = dialler(speaker(ONE))
    there = Handshake(speaker(TWO), None, b"", lambda peer: Refusal.LINKED)
    refusals = shake(here, there)
    assert [refused.quiet for refused in refusals] == [True, True]


def test_another_tls_session_under_the_same_words_is_refused() -> None:
    refusals = shake(dialler(speaker(ONE), binding=b"a"), acceptor(speaker(TWO), binding=b"b"))
    assert "cluster.secret" in refusals[0].reason


def recorded() -> tuple[Speaker, list[bytes]]:
    """What node 1 sent to node 2 when they met."""
    two = speaker(TWO)
    here, there = dialler(speaker(ONE)), acceptor(two)
    hello = here.begin()
    proof = here.feed(there.feed(hello))
    ready = here.feed(there.feed(proof))
    assert there.feed(ready) == b""
    assert there.peer is not None
    return two, [hello, proof, ready]


def test_a_replayed_proof_is_refused() -> None:
    two, (hello, proof, ready) = recorded()
    there = acceptor(two)
    there.feed(hello)
    with pytest.raises(Refused, match="secret"):
        there.feed(proof + ready)
    assert there.peer is None


def test_a_reflected_proof_is_refused() -> None:
    # To the dialler its own words are said back: first as they are, then as if by node 2.
    here = dialler(speaker(ONE))
    with pytest.raises(Refused):
        here.feed(here.begin())
    two = speaker(TWO)
    here, there = dialler(speaker(ONE)), acceptor(two)
    proof = here.feed(there.feed(here.begin()))
    with pytest.raises(Refused, match="secret"):
        here.feed(proof)
    # And a node is not made to prove something for a stranger by dialling it back.
    victim = acceptor(two)
    theirs = victim.feed(dialler(speaker(ONE)).begin())
    with pytest.raises(Refused):
        victim.feed(theirs)


@given(st.integers(0, 200), st.integers(1, 255))
def test_who_changes_a_byte_of_a_hello_is_found_out(at: int, flip: int) -> None:
    for changes_first in (True, False):
        here, there = dialler(speaker(ONE)), acceptor(speaker(TWO))

        def changed(data: bytes, change: bool) -> bytes:
            altered = bytearray(data)
            if change:
                altered[at % len(altered)] ^= flip
            return bytes(altered)

        try:
            answer = there.feed(changed(here.begin(), changes_first))
            proof = here.feed(changed(answer, not changes_first))
            assert proof == b"" or there.feed(proof) == b""
        except Refused:
            pass
        assert there.peer is None
        assert here.peer is None


def test_swapped_ids_are_found_out() -> None:
    # In the middle: node 3's hello is passed on as node 1's, its proof as it is.
    three = speaker(replace(ONE, node=3, uuid=UUID(int=3)))
    here, there = dialler(three), acceptor(speaker(TWO))
    hello = here.begin()
    forged = hello.replace(
        (3).to_bytes(4, "big") + (2).to_bytes(4, "big"), bytes([0, 0, 0, 1, 0, 0, 0, 2])
    )
    assert forged != hello
    with pytest.raises(Refused, match="secret"):
        there.feed(here.feed(there.feed(forged)))


@given(st.lists(st.binary(max_size=600), max_size=6))
def test_what_is_no_handshake_is_refused_and_not_kept(chunks: list[bytes]) -> None:
    there = acceptor(speaker(TWO))
    for chunk in chunks:
        try:
            if chunk:
                there.feed(chunk)
        except Refused:
            break
        assert len(there._held) <= HELD_BYTES_MAX  # pyright: ignore
    assert there.peer is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "speaks TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "no handshake"),
        (b"\x00\x00\x01", "no handshake"),
        (b"\x01\xf0\x01" + b"x" * 509, "no handshake|more than"),
        (b"x" * 600, "more than a handshake"),
        (b"\x00\x21\x02" + b"p" * 32, "no handshake"),  # a proof before any hello
        (b"\x00\x01\x03", "no handshake"),  # ready before any proof
    ],
)
def test_strangers_are_told_apart(data: bytes, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        acceptor(speaker(TWO)).feed(data)
