"""Leads while the lease is ours, stands by while it is another's. One thread, which never ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from exporter.checkpoint.lease import LEASE_DURATION, Lease, LeaseLostError
from exporter.checkpoint.store import Fence
from exporter.errors import CheckpointError

log = logging.getLogger(__name__)

RENEW_INTERVAL = 3.0  # seconds between renewals
RETRY_INTERVAL = 1.0  # seconds between looks whether anybody leads
STUCK_AFTER = 300.0  # seconds; all timeouts of one try are less
STANDING_BY = "standing by: another replica leads"


class Election:
    """Calls `lead` when this process is to lead and `stand_by` when it no longer may.

    `lead` gets the fence of its term; where it raises CheckpointError another may try.
    """

    def __init__(
        self, lease: Lease, lead: Callable[[Fence], None], stand_by: Callable[[], None]
    ) -> None:
        self.fault = "the checkpoint is not open yet"  # why we do not lead, or might not; "": we do
        self.decided = threading.Event()  # we lead
        self._lease = lease
        self._lead = lead
        self._stand_by = stand_by
        self._stop = threading.Event()
        self._patient_until = float("inf")  # monotonic; later than this the thread is stuck
        self._thread = threading.Thread(target=self._run, name="election", daemon=True)

    @property
    def leading(self) -> bool:
        """Whether we lead, and nobody else can."""
        return self.decided.is_set() and self._lease.confirmed()

    def start(self) -> None:
        """Begin looking who leads."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Let another lead; wait for that `timeout` seconds at most."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def stuck(self) -> bool:
        """Whether the thread has died, or makes no progress."""
        begun = self._thread.ident is not None
        return begun and (not self._thread.is_alive() or time.monotonic() > self._patient_until)

    # -- the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stop.is_set():
            self._patient_until = time.monotonic() + STUCK_AFTER
            self._try(self._beat if self.decided.is_set() else self._look)
            self._stop.wait(RENEW_INTERVAL if self.decided.is_set() else RETRY_INTERVAL)
        if self.decided.is_set():
            self._try(self._lease.release)
        self._lease.close()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except LeaseLostError:
            self._lose()
        except CheckpointError as error:
            self._note(str(error))
        except Exception:  # our own mistake: the thread must go on
            log.exception("unexpected error")

    def _beat(self) -> None:
        self._lease.beat()
        self._note("")

    def _look(self) -> None:
        if not self._lease.take():
            self._note(STANDING_BY)
            return
        try:
            self._lead(self._lease.fence())
        except BaseException:
            self._lease.release()
            raise
        self.decided.set()
        self._note("")

    def _lose(self) -> None:
        self._lease.give_up()
        self.fault = STANDING_BY
        if self.decided.is_set():
            self.decided.clear()
            self._stand_by()
            log.warning("leads no longer: another replica has taken over")

    def _note(self, fault: str) -> None:
        """Say what has changed, once."""
        if fault == self.fault:
            return
        self.fault = fault
        if fault == STANDING_BY:
            log.info(
                fault,
                extra={"leader": self._lease.leader, "takes_over_after": f"{LEASE_DURATION:g}s"},
            )
        elif fault:
            log.warning("checkpoint is not in reach", extra={"error": fault})
        elif self.decided.is_set():
            log.info("leading")
