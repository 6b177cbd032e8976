"""Members that meet at a store, as threads: whoever does not come is named."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from torch.distributed import PrefixStore

from pet.utils.rendezvous import Meeting, MeetingError, call_off, is_local
from tests.helpers import free_port

HOST = socket.gethostname()


@pytest.fixture
def meeting() -> Meeting:
    return Meeting("127.0.0.1", free_port(), 0, 2, 1.0, "node", "Look at the other one.")


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which something listens that never answers."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def attend(member: Meeting) -> str:
    """Come to the meeting; what went wrong, or an empty string."""
    try:
        member.gather(member.open(serve=member.rank == 0))
    except MeetingError as error:
        return str(error)
    return ""


def attend_together(*members: Meeting) -> list[str]:
    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(attend, members))


def test_all_who_come_meet_and_meet_again(meeting: Meeting) -> None:
    store = meeting.open(serve=True)
    members = [meeting, replace(meeting, rank=1)]
    with ThreadPoolExecutor(2) as pool:
        for round in ("first", "second"):
            for done in [pool.submit(member.gather, PrefixStore(round, store)) for member in members]:
                done.result(10)


def test_a_port_of_0_becomes_a_free_one(meeting: Meeting) -> None:
    store = replace(meeting, port=0, size=1).open(serve=True)
    assert store.port > 0
    replace(meeting, port=store.port, rank=0, size=1).gather(store)


def test_who_waits_in_vain_says_where_for_whom_and_who_came(meeting: Meeting) -> None:
    three = replace(meeting, size=3)
    alone, second = attend_together(three, replace(three, rank=1))
    vain = (
        f"node 0 of 3 ({HOST}) waited 1 s at {meeting.place}; arrived: 0 ({HOST}), 1 ({HOST}); missing: 2. Look at the other one."
    )
    assert alone == vain
    assert second == f"node 1 of 3 ({HOST}) waited at {meeting.place}: {vain}"


def test_nobody_at_the_port_is_an_error_in_time(meeting: Meeting) -> None:
    started = time.monotonic()
    text = attend(replace(meeting, rank=1))
    assert text.startswith(
        f"node 1 of 2 ({HOST}) found no node 0 at {meeting.place} within 1 s: Connection refused; arrived: only this"
    )
    assert time.monotonic() - started < 4.0


def test_something_else_at_the_port_is_an_error_in_time(meeting: Meeting, taken: int) -> None:
    started = time.monotonic()
    text = attend(replace(meeting, rank=1, port=taken))
    assert f"node 1 of 2 ({HOST}) got no answer at 127.0.0.1:{taken} within 1 s: what listens there is no node 0" in text
    assert time.monotonic() - started < 5.0


def test_an_unknown_host_is_named(meeting: Meeting) -> None:
    text = attend(replace(meeting, rank=1, address="no-such-host.invalid"))
    assert "node 1 of 2" in text
    assert "no-such-host.invalid" in text


def test_a_port_in_use_is_named_at_once(meeting: Meeting, taken: int) -> None:
    text = attend(replace(meeting, port=taken, timeout_s=30.0))
    assert (
        text
        == f"node 0 of 2 ({HOST}) cannot open 127.0.0.1:{taken}: the port is in use. Choose another port, the same everywhere"
    )


def test_two_members_with_one_rank_and_members_of_another_size_are_found_out(meeting: Meeting) -> None:
    store = meeting.open(serve=True)
    store.add("count/0", 1)
    with pytest.raises(MeetingError, match="but node 0 is there already"):
        meeting.gather(store)
    small, large = attend_together(replace(meeting, port=free_port()), replace(meeting, port=0, rank=0, size=1))
    assert "missing: 1" in small
    assert large == ""
    place = replace(meeting, port=free_port())
    two, three = attend_together(place, replace(place, rank=1, size=3))
    assert "which expects 3 members of the run" in two
    assert "missing: 2" in three or "has ended" in three


def test_who_does_not_come_back_is_not_waited_for(meeting: Meeting) -> None:
    patient = replace(meeting, timeout_s=60.0)
    store = patient.open(serve=True)
    call_off(store, "node 1 has ended: rank 3 failed")
    with pytest.raises(MeetingError, match=r"node 0 of 2 .* waited at .*: node 1 has ended: rank 3 failed"):
        patient.gather(store)


def test_an_address_of_another_machine_is_told_from_one_of_this(meeting: Meeting) -> None:
    assert is_local("127.0.0.1")
    assert is_local(HOST)
    assert not is_local("192.0.2.1")  # reserved for documentation, RFC 5737
    alone = attend(replace(meeting, address="192.0.2.1"))
    assert "missing: 1; 192.0.2.1 is no address of this machine. Look at" in alone
