"""Follows its share of the backends, beside other replicas. One thread, which never ends.

A backend is taken when none follows it, and handed on when another replica has joined and we have
more than our share: polls end, then it is served no more, then the other may take it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import lru_cache
from uuid import uuid4

from exporter.checkpoint.lease import LEASE_DURATION, Leases
from exporter.errors import CheckpointError
from exporter.printable import some
from exporter.runtime.division import divide, hashed

log = logging.getLogger(__name__)

RENEW_INTERVAL = 2.0  # seconds between renewals
RETRY_INTERVAL = 1.0  # the same, while something is still to be taken
STUCK_AFTER = 300.0  # seconds; all timeouts of one try are less
STANDING_BY = "standing by: other replicas follow all backends"

Names = Collection[str]
_divided = lru_cache(maxsize=1)(divide)


class Replica:
    """Calls `follow` with all that is to be followed, and what was lost, where that changes."""

    def __init__(
        self,
        leases: Leases,
        *,
        wanted: Callable[[], Names],
        follow: Callable[[Names, Names], None],
        ending: Callable[[], Names],
        open_checkpoint: Callable[[], None],
    ) -> None:
        """`wanted`: all backends; `ending`: those followed no more whose last poll goes on."""
        self.shares = True  # else what is free is ours, and nothing is handed on
        self.fault = "the checkpoint is not open yet"  # why nothing is followed, or may not be
        self.complete = threading.Event()  # all that is wanted is followed here
        self.followed: frozenset[str] = frozenset()
        self.leases = leases
        self._wanted = wanted
        self._follow = follow
        self._ending = ending
        self._open_checkpoint = open_checkpoint
        self._alone = uuid4().hex  # no set of backends
        self._opened = False
        self._wake = threading.Event()
        self._stopping = False
        self._lost: frozenset[str] = frozenset()  # and their last poll goes on
        self._unfollowed: dict[str, float] = {}  # since when none does, Unix time, seconds
        self._patient_until = float("inf")  # monotonic; later than this the thread is stuck
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)

    @property
    def confirmed(self) -> bool:
        """Whether what is followed here can be followed by nobody else."""
        return self.leases.confirmed()

    @property
    def followers(self) -> dict[str, str]:
        """Name the replica that follows each backend, "" where none does."""
        return self.leases.sight.followers(self._wanted())

    @property
    def unfollowed(self) -> dict[str, float]:
        """Say since when backends have been followed by no replica; Unix time."""
        return dict(self._unfollowed)

    def start(self) -> None:
        """Begin to look for something to follow."""
        self._thread.start()

    def wake(self) -> None:
        """Look at once: what is wanted has changed, or a last poll has ended."""
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Let others follow; wait for that `timeout` seconds at most."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def stuck(self) -> bool:
        """Whether the thread has died, or makes no progress."""
        begun = self._thread.ident is not None
        return begun and (not self._thread.is_alive() or time.monotonic() > self._patient_until)

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._patient_until = time.monotonic() + STUCK_AFTER
            self._wake.clear()
            self._try(self._go_on)
            self._wake.wait(RETRY_INTERVAL if self._waits() else RENEW_INTERVAL)
        self._try(self.leases.leave)
        self.leases.close()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except CheckpointError as error:
            self._note(str(error))
        except Exception:  # our own mistake: the thread must go on
            log.exception("unexpected error")

    def _go_on(self) -> None:
        if not self._opened:
            self._open()
        wanted, leases = frozenset(self._wanted()), self.leases
        group = hashed(wanted) if self.shares else self._alone
        leases.renew(group)
        self._lose()
        leases.confirm()
        leases.strike_off()
        alike = frozenset(name for name, of in leases.sight.replicas.items() if of == group)
        followers = leases.sight.followers(wanted)
        divided = _divided(wanted, alike, frozenset(followers.items()))
        share = {name for name, replica in divided.items() if replica == leases.own}
        ending = set(self._ending())
        free = {name for name in share - leases.held if not followers[name]}
        leases.take(free - ending)
        self._change(leases.held & share - ending)
        leases.release(leases.held - self.followed - set(self._ending()))
        self._note_what_is_followed(wanted)

    def _open(self) -> None:
        """Make sure that the tables are there; another replica may make them at this moment."""
        with suppress(CheckpointError):
            self._open_checkpoint()
            self._opened = True
            return
        self._open_checkpoint()
        self._opened = True

    def _lose(self) -> None:
        """Serve no more what is another's, whatever its poll is doing."""
        lost = (self.followed | set(self._ending())) - self.leases.held
        if not lost <= self._lost:
            self.followed -= lost
            self._follow(self.followed, lost)
            words = "follows no longer: another replica has taken over"
            log.warning(words, extra={"backends": some(sorted(lost - self._lost))})
        self._lost = lost

    def _change(self, followed: frozenset[str]) -> None:
        before, self.followed = self.followed, followed
        if followed == before:
            return
        self._follow(followed, ())
        for words, names in (("hands on", before - followed), ("follows", followed - before)):
            if names:
                log.info(words, extra={"backends": some(sorted(names)), "followed": len(followed)})

    def _waits(self) -> bool:
        """Whether something is to be taken soon, by us or another."""
        return not self.complete.is_set() and (bool(self._unfollowed) or not self.followed)

    def _note_what_is_followed(self, wanted: frozenset[str]) -> None:
        now, before = time.time(), self._unfollowed
        self._unfollowed = {
            name: before.get(name, now)
            for name in wanted - self.followed
            if not self.leases.sight.follower(name)
        }
        if wanted <= self.followed:
            self.complete.set()
        else:
            self.complete.clear()
        self._note("" if self.followed else STANDING_BY)

    def _note(self, fault: str) -> None:
        """Say what has changed, once."""
        if fault == self.fault:
            return
        self.fault = fault
        if fault == STANDING_BY:
            log.info(fault, extra={"takes_over_after": f"{LEASE_DURATION:g}s"})
        elif fault:
            log.warning("checkpoint is not in reach", extra={"error": fault})
        else:
            log.info("checkpoint is in reach")
