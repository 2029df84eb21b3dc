"""All backends that are polled while this process leads, and how that changes."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from functools import partial

from exporter.checkpoint.checkpoint import Checkpoint
from exporter.config.settings import Backend, Config
from exporter.exposition.exposition import Exposition
from exporter.runtime.poller import Poller
from exporter.runtime.schedule import Schedule

TOGETHER = 3  # polls in a row: what is served changes less often, and a scrape waits for few


class Polling:
    """What is read and served while this process leads: all of it anew each time."""

    def __init__(
        self, config: Config, exposition: Exposition, checkpoint: Checkpoint | None
    ) -> None:
        self.checkpoint = checkpoint
        self.exposition = exposition
        self.pollers = [Poller(backend, exposition, checkpoint) for backend in config.backends]
        self._schedule = Schedule(self.pollers)
        self._stopping = threading.Event()
        self._changing = threading.Lock()
        # Those whose last poll goes on, and who then begins; None: nobody.
        self._after: dict[Poller, Poller | None] = {}

    def start(self) -> None:
        """Begin polling: one backend after the other, then spread over the interval."""
        begun = time.monotonic()
        for number, poller in enumerate(self.pollers):
            share = number // TOGETHER * TOGETHER / len(self.pollers)
            poller.begin(begun + share * poller.settings.poll_interval)
        self._schedule.start()
        threading.Thread(target=self._settle, name="settle", daemon=True).start()

    def change(self, backends: Sequence[Backend]) -> None:
        """Poll these from now on; those that stay as they are notice nothing of it.

        Others begin when the last poll of the one before is over, which may hang: so of one name
        never two poll at a time.
        """
        with self._changing:
            before = {poller.settings.name: poller for poller in self.pollers}
            leaving = {old.settings.name: old for old, new in self._after.items() if new is None}
            pollers = []
            for settings in backends:
                old = before.pop(settings.name, None)
                if old is None or old.settings != settings:
                    new = Poller(settings, self.exposition, self.checkpoint, freezes=False)
                    self._follow(new, old or leaving.get(settings.name))
                    old = new
                pollers.append(old)
            for old in before.values():
                self._retire(old, None)
            self.pollers = pollers
        threading.Thread(target=self._settle, name="settle", daemon=True).start()

    def all(self) -> list[Poller]:
        """All that may poll: also those that are to end."""
        return [*self.pollers, *self._after.copy()]

    def _follow(self, new: Poller, old: Poller | None) -> None:
        if old is None:
            self._begin(new)
        elif old in self._after:
            self._after[old] = new
        else:
            self._retire(old, new)

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
                self._begin(new)

    def _begin(self, poller: Poller) -> None:
        poller.begin(time.monotonic())
        self._schedule.add(poller)

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
        self._stopping.set()
        for poller in self.pollers:
            poller.stop()
        self._schedule.stop()

    def end(self, timeout: float) -> None:
        """Wait for that; a poll that hangs is abandoned."""
        self._schedule.join(timeout)
        if self.checkpoint is not None:
            self.checkpoint.close()
