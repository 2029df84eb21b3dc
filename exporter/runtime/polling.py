"""All backends that are polled, and how that changes."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.config.settings import Backend
from exporter.exposition.exposition import Exposition
from exporter.runtime.poller import Poller
from exporter.runtime.schedule import Schedule

TOGETHER = 3  # polls in a row: what is served changes less often, and a scrape waits for few


class Polling:
    """What is read and served."""

    def __init__(
        self,
        backends: Sequence[Backend],
        exposition: Exposition,
        checkpoint: Checkpoint | None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Let `ended` know when the last poll of a backend that is polled no more is over."""
        self.checkpoint = checkpoint
        self.exposition = exposition
        self.pollers = [Poller(backend, exposition, checkpoint) for backend in backends]
        self._first = self.pollers  # what comes later is no reason to take these from who scrapes
        self._when_ended = ended
        self._schedule = Schedule(())
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        # Those whose last poll goes on, and who then begins; None: nobody.
        self._after: dict[Poller, Poller | None] = {}

    def start(self) -> None:
        """Begin polling: one backend after the other, then spread over the interval."""
        self._begin(self.pollers)
        self._schedule.start()
        self._settle_beside()

    def change(self, backends: Sequence[Backend], lost: Collection[str] = ()) -> None:
        """Poll these from now on; those that stay as they are notice nothing of it.

        Others begin when the last poll of the one before is over, which may hang: so of one name
        never two poll at a time. Those that are lost are served no more, even before that.
        """
        with self._changing:
            for poller in self.all():
                if poller.settings.name in lost:
                    poller.silence()
            if self._stopping.is_set():
                return
            before = {poller.settings.name: poller for poller in self.pollers}
            leaving = {old.settings.name: old for old, new in self._after.items() if new is None}
            first = not before and not leaving
            pollers, fresh = [], []
            for settings in backends:
                old = before.pop(settings.name, None)
                if old is None or old.settings != settings:
                    new = Poller(settings, self.exposition, self.checkpoint, freezes=first)
                    if not self._follows(new, old or leaving.get(settings.name)):
                        fresh.append(new)
                    old = new
                pollers.append(old)
            for old in before.values():
                self._retire(old, None)
            self._first = pollers if not self.pollers or self.untried() else []
            self.pollers = pollers
            self._begin(fresh)
        self._settle_beside()

    def all(self) -> list[Poller]:
        """All that may poll: also those that are to end."""
        return [*self.pollers, *self._after.copy()]

    def untried(self) -> list[str]:
        """Name the backends that were not tried yet; none any more once all were."""
        return [poller.settings.name for poller in self._first if not poller.tried.is_set()]

    def served(self) -> set[str]:
        """Name the backends that are served, or will be once they were tried."""
        return {poller.settings.name for poller in self.all() if not poller.silent}

    def ending(self) -> list[str]:
        """Name the backends that are polled no more, once their last poll is over."""
        return [old.settings.name for old, new in self._after.copy().items() if new is None]

    def _follows(self, new: Poller, old: Poller | None) -> bool:
        """Say whether it is to wait for another, and let it."""
        if old is None:
            return False
        if old in self._after:
            self._after[old] = new
        else:
            self._retire(old, new)
        return True

    def _retire(self, old: Poller, new: Poller | None) -> None:
        self._after[old] = new
        old.stop()
        self._schedule.retire(old, partial(self._ended, old))

    def _ended(self, old: Poller) -> None:
        with self._changing:
            new = self._after.pop(old)
            if new is None:
                self.exposition.withdraw(old.settings.name)
            else:
                new.succeed(old)
                self._begin([new])
        if new is None:
            self._when_ended()

    def _begin(self, pollers: Collection[Poller]) -> None:
        begun = time.monotonic()
        for number, poller in enumerate(pollers):
            share = number // TOGETHER * TOGETHER / len(pollers)
            poller.begin(begun + share * poller.settings.poll_interval)
            self._schedule.add(poller)

    def _settle_beside(self) -> None:
        threading.Thread(target=self._settle, name="settle", daemon=True).start()

    def _settle(self) -> None:
        """Let stay what is loaded once all were tried: no scrape need wait for a look at it."""
        for poller in self.pollers:
            while not poller.tried.wait(1.0):
                if self._stopping.is_set():
                    return
                if poller not in self.pollers:  # a reload has ended it
                    break
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def stop(self) -> None:
        """End polling after the step each poll is in."""
        with self._changing:
            self._stopping.set()
            for poller in self.pollers:
                poller.stop()
        self._schedule.stop()

    def end(self, timeout: float) -> None:
        """Wait for that; a poll that hangs is abandoned."""
        self._schedule.join(timeout)
        if self.checkpoint is not None:
            self.checkpoint.close()
