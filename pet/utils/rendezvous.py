"""Meeting at a TCP store, with an answer when somebody does not come.

torch's own rendezvous counts its clients without knowing them, prints C++ stacks while it retries, and waits for ever when
something else listens at the port. Here every member leaves its name, so that whoever waits in vain can say for whom.
"""

from __future__ import annotations

import errno
import socket
import threading
import time
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]  # exported, but not for mypy

_VERDICT = "verdict"
# How long the member that keeps the store stays to let the others read why it gives up.
_LINGER_S = 1.0


class MeetingError(RuntimeError):
    """Not everybody came to the meeting place in time; the text says where, who waited, who came and what to do."""


@dataclass(frozen=True)
class Meeting:
    """A place where a known number of members meet.

    Attributes:
        address, port: where the store is; port 0 lets the member that serves it choose a free one.
        rank, size: which member this is, and how many there are.
        timeout_s: seconds to wait for the store, and then for the others.
        kind: what the members are, ``rank`` or ``node``.
        remedy: what to do if somebody is missing.
    """

    address: str
    port: int
    rank: int
    size: int
    timeout_s: float
    kind: str = "rank"
    remedy: str = (
        "A missing rank failed before (its own message says why) or was started with another MASTER_ADDR or MASTER_PORT; "
        "MISC.RDZV_TIMEOUT is the time to wait"
    )

    def __str__(self) -> str:
        return f"{self.kind} {self.rank} of {self.size} ({socket.gethostname()})"

    @property
    def place(self) -> str:
        """Address and port."""
        return f"{self.address}:{self.port}"

    def open(self, serve: bool) -> TCPStore:
        """Serve the store, or connect to the one that another member serves.

        Raises:
            MeetingError: the port is taken, or nobody serves a store there.
        """
        deadline = time.monotonic() + self.timeout_s
        if not serve:
            self._await_server(deadline)
        outcome: list[TCPStore | Exception] = []
        # In a thread, because the constructor never returns if what listens there is not a store.
        thread = threading.Thread(target=self._connect, args=(serve, outcome), daemon=True)
        thread.start()
        thread.join(max(deadline - time.monotonic(), 1.0))
        if not outcome:
            raise MeetingError(
                f"{self} got no answer at {self.place} within {self.timeout_s:g} s: what listens there is no {self.kind} 0; "
                f"arrived: only this one. {self.remedy}"
            )
        if isinstance(outcome[0], Exception):
            what = "the port is in use" if "EADDRINUSE" in str(outcome[0]) else str(outcome[0]).partition("\n")[0]
            raise MeetingError(f"{self} cannot open {self.place}: {what}. Choose another port, the same everywhere")
        return outcome[0]

    def _await_server(self, deadline: float) -> None:
        """Wait until somebody listens; C++ would print a stack for every attempt."""
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=max(deadline - time.monotonic(), 0.1)).close()
            except OSError as error:
                reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            else:
                return
            if time.monotonic() >= deadline:
                raise MeetingError(
                    f"{self} found no {self.kind} 0 at {self.place} within {self.timeout_s:g} s: {reason}; "
                    f"arrived: only this one. {self.remedy}"
                )
            time.sleep(0.1)

    def _connect(self, serve: bool, outcome: list[TCPStore | Exception]) -> None:
        # The server reaches itself even where the address is that of a proxy in front of it.
        address, wait = "127.0.0.1" if serve else self.address, timedelta(seconds=self.timeout_s)
        try:
            store = TCPStore(address, self.port, None, serve, wait, wait_for_workers=False, multi_tenant=True)
            outcome.append(store)
        except Exception as error:
            outcome.append(error)

    def gather(self, store: Store) -> None:
        """Wait until every member has come; once for each store (a ``PrefixStore`` for each round).

        Raises:
            MeetingError: somebody is missing, is there twice, or expects another number of members.
        """
        keys = [f"member/{rank}" for rank in range(self.size)]
        try:
            if store.add(f"count/{self.rank}", 1) > 1:
                raise MeetingError(f"{self} came to {self.place}, but {self.kind} {self.rank} is there already. {self.remedy}")
            store.set(keys[self.rank], f"{self.size} {socket.gethostname()}")
            self._await_members(store, keys)
            sizes = {rank: int(told.split()[0]) for rank, told in enumerate(store.multi_get(keys))}
        except DistError as error:
            raise MeetingError(
                f"{self} waited at {self.place}, but {self.kind} 0, which keeps the meeting place, has ended; its own message "
                "says why"
            ) from error
        other = next((rank for rank, size in sizes.items() if size != self.size), None)
        if other is not None:
            raise MeetingError(f"{self} met {self.kind} {other} at {self.place}, which expects {sizes[other]} members of the run")

    def _await_members(self, store: Store, keys: list[str]) -> None:
        """Poll, because a wait of the store that times out prints warnings."""
        # Rank 0 speaks first where all wait for the same one.
        deadline = time.monotonic() + self.timeout_s + (_LINGER_S if self.rank else 0.0)
        pause = 0.01
        while not store.check(keys):
            if store.check([_VERDICT]):
                raise MeetingError(f"{self} waited at {self.place}: {store.get(_VERDICT).decode()}")
            if time.monotonic() >= deadline:
                self._give_up(store, keys)
            time.sleep(pause)
            pause = min(2 * pause, 0.25)

    def _give_up(self, store: Store, keys: list[str]) -> None:
        came = {rank: store.get(key).decode().split()[1] for rank, key in enumerate(keys) if store.check([key])}
        missing = ", ".join(str(rank) for rank in range(self.size) if rank not in came)
        arrived = ", ".join(f"{rank} ({host})" for rank, host in came.items())
        elsewhere = "" if self.rank or is_local(self.address) else f"; {self.address} is no address of this machine"
        text = f"waited {self.timeout_s:g} s at {self.place}; arrived: {arrived}; missing: {missing}{elsewhere}. {self.remedy}"
        if self.rank == 0:
            call_off(store, f"{self} {text}")
            time.sleep(_LINGER_S)
        raise MeetingError(f"{self} {text}")


def call_off(store: Store, text: str) -> None:
    """Let those who wait, or will wait, for the members at this store give up with this text."""
    store.set(_VERDICT, text)


def is_local(address: str) -> bool:
    """Whether a name or an address is one of this machine; ``True`` if that cannot be told."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(where)
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
