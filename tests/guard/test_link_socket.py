"""The two ends of the local socket: private, bounded, never blocking (I28, I29, F55)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from guard_rig import short_directory

from devices import link, link_socket
from devices.link_server import FLOOD_NS, FLOOD_PACKETS, MAX_BYSTANDERS, GuardRunningError, LinkServer, Peer
from devices.link_socket import (
    GuardClient,
    GuardUnreachableError,
    RuntimeDirectoryError,
    find_guards,
    runtime_directory,
    socket_path,
    stop_all,
)

STOP = link.Stop(stop_class=0, reason="test")


@pytest.fixture
def directory() -> Iterator[Path]:
    with short_directory() as path:
        yield path


@pytest.fixture
def server(directory: Path) -> Iterator[LinkServer]:
    made = LinkServer(directory / "g.sock")
    yield made
    made.close()


def _pair() -> tuple[GuardClient, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(0.0)
    return GuardClient(ours), theirs


# ---- the runtime directory


def test_the_runtime_directory_is_made_private(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    path = runtime_directory()
    assert path == directory / "cereloop"
    assert path.stat().st_mode & 0o777 == 0o700
    assert runtime_directory() == path
    assert socket_path("patient 7/../x") == path / "patient-7-x.sock"


def test_a_directory_that_others_may_enter_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    (directory / "cereloop").mkdir(mode=0o750)
    with pytest.raises(RuntimeDirectoryError, match="has mode 0750: make it 0700"):
        runtime_directory()


def test_a_link_in_place_of_the_directory_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    (directory / "elsewhere").mkdir(mode=0o700)
    (directory / "cereloop").symlink_to(directory / "elsewhere")
    with pytest.raises(RuntimeDirectoryError, match="is not a directory"):
        runtime_directory()


def test_a_directory_of_somebody_else_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = os.getuid()
    monkeypatch.setattr(link_socket.os, "getuid", lambda: uid + 1)
    with pytest.raises(RuntimeDirectoryError, match=f"belongs to user {uid}"):
        link_socket.check_directory(directory)


def test_a_missing_directory_is_told(directory: Path) -> None:
    with pytest.raises(RuntimeDirectoryError, match="No such file"):
        link_socket.check_directory(directory / "nowhere")


# ---- the engine's end


def test_messages_arrive_in_order_and_whole() -> None:
    client, guard = _pair()
    for number in range(5):
        guard.send(link.encode(link.Refused(seq=number, reason="x" * number)))
    assert [message.seq for message in client.receive() if isinstance(message, link.Refused)] == list(range(5))
    assert client.receive() == []


def test_a_guard_that_does_not_read_costs_messages_and_no_time() -> None:
    client, _guard = _pair()
    while client.send(STOP):
        pass
    assert client.lost == 1
    assert not client.closed
    assert not client.send(STOP)
    assert client.lost == 2


def test_a_guard_that_has_gone_closes_the_client() -> None:
    client, guard = _pair()
    guard.close()
    assert client.receive() == []
    assert client.closed
    assert client.fileno() == -1
    assert not client.send(STOP)


def test_sending_to_a_guard_that_has_gone_is_no_exception() -> None:
    client, guard = _pair()
    guard.close()
    assert not client.send(STOP)
    assert client.closed


def test_junk_from_the_guard_is_counted() -> None:
    client, guard = _pair()
    guard.send(b"junk")
    guard.send(link.encode(link.Refused(seq=1, reason="")))
    assert len(client.receive()) == 1
    assert client.garbage == 1


def test_nobody_there_is_told_within_the_time(directory: Path) -> None:
    with pytest.raises(GuardUnreachableError, match="no guard answers at"):
        GuardClient.connect(directory / "none.sock", 0.05)


# ---- the guard's end


def test_a_socket_is_served_once_and_a_dead_one_is_replaced(server: LinkServer, directory: Path) -> None:
    with pytest.raises(GuardRunningError, match="another guard already serves"):
        LinkServer(directory / "g.sock")
    dead = directory / "dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(dead))
    assert dead.exists()
    again = LinkServer(dead)
    assert GuardClient.connect(dead, 0.0).send(STOP)
    again.close()
    assert not dead.exists()


def test_bystanders_are_bounded_and_have_their_time(server: LinkServer) -> None:
    clients = []
    for number in range(MAX_BYSTANDERS + 3):
        clients.append(GuardClient.connect(server.path, 1.0))
        server.accept(number)
    assert len(server.peers) == MAX_BYSTANDERS
    assert [peer.since_ns for peer in server.peers] == list(range(3, MAX_BYSTANDERS + 3))
    for client in clients[:3]:
        client.receive()
        assert client.closed
    server.peers[0].is_engine = True
    assert server.engine is server.peers[0]
    assert server.expired(10**12) == server.peers[1:]


def test_packets_are_read_in_portions_and_the_end_is_seen_behind_them(server: LinkServer) -> None:
    client = GuardClient.connect(server.path, 1.0)
    (peer,) = server.accept(0)
    for _ in range(40):
        assert client.send(STOP)
    client.close()
    first, ended = server.read(peer)
    assert (len(first), ended) == (32, False)
    rest, ended = server.read(peer)
    assert (len(rest), ended) == (8, True)


def test_who_does_not_read_does_not_hold_up_the_guard(server: LinkServer) -> None:
    client = GuardClient.connect(server.path, 1.0)
    (peer,) = server.accept(0)
    for number in range(5000):
        server.send(peer, link.Refused(seq=number, reason="x" * 400))
    assert 0 < len(client.receive()) < 5000


def test_a_flood_is_told_from_a_burst() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fast, slow = Peer(ours, 0), Peer(theirs, 0)
    assert sum(fast.floods(0) for _ in range(3 * FLOOD_PACKETS)) == 3
    step = FLOOD_NS // (FLOOD_PACKETS - 1) + 1
    assert not any(slow.floods(number * step) for number in range(3 * FLOOD_PACKETS))
    ours.close()
    theirs.close()


# ---- the emergency stop


def test_stop_finds_no_guard_where_there_is_none(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(directory / "left.sock"))
    (directory / "file.sock").write_text("")
    assert find_guards(directory) == [directory / "left.sock"]
    assert stop_all("test", directory=directory) == []


def test_a_guard_that_does_not_answer_is_not_confirmed(server: LinkServer, directory: Path) -> None:
    (outcome,) = stop_all("test", directory=directory, timeout_s=0.05)
    assert not outcome.confirmed
    assert outcome.detail == "no report came"
    (peer,) = server.accept(0)
    assert [link.decode_to_guard(packet) for packet in server.read(peer)[0]] == [STOP]
