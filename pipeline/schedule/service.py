"""Waits for the next slot, and starts a process for it. It holds nothing that a slot needs: whether it or its children
die, the ledger knows what is to be done, and any service or `--once` of any machine does it.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from pipeline.schedule.cron import Cron
from pipeline.schedule.ledger import Ledger
from pipeline.schedule.slot import tend
from variants import InputError

POLL = 15.0  # seconds between looks at the ledger: for what others left behind, and for times that changed
PATIENCE = 20.0  # seconds that a child has to put all away
SLOWEST = 600.0  # between starts of processes that end before they begin


@dataclass(kw_only=True)
class Service:
    """`line` is the command that does one slot. `say` gets a line whenever something happens."""

    ledger: Ledger
    suite: str
    cron: Cron
    line: Sequence[str]
    say: Callable[[str], None]
    _child: "subprocess.Popen[bytes] | None" = None
    _rest: float = 0.0  # seconds to wait after a child that did nothing
    _not_before: float = 0.0  # on the monotonic clock

    def run(self) -> None:
        """Until it is interrupted. Raises `InputError` where another process changes the suite's times."""
        self.say(f"{self.suite}: {self.cron.words()}; next {self.cron.local(self.cron.next(time.time()))}")
        trouble = ""
        while True:
            pause = POLL
            try:
                self.look()
                trouble = ""
                now = self.ledger.now()
                pause = min(POLL, max(0.05, self.cron.next(now) - now))
            except SQLAlchemyError as error:
                said = str(error).splitlines()[0]
                if said != trouble:
                    self.say(f"the ledger does not answer, and is asked again every {POLL:.0f} s: {said}")
                trouble = said
            self._wait(pause)

    def look(self) -> None:
        """Write down what came, mind what failed, and do what is due."""
        known = self.ledger.cron(self.suite)
        if known is None or known[0] != self.cron:
            self._stop()
            raise InputError(f"the times of {self.suite} were changed by another process; this one ends")
        tend(self.ledger, self.suite, self.say)
        if self._child is None and time.monotonic() >= self._not_before and self.ledger.waits(self.suite):
            self._child = subprocess.Popen(self.line, start_new_session=True)  # it hears of Ctrl-C from us alone

    def _wait(self, seconds: float) -> None:
        """For a time, or until the child ends."""
        try:
            if self._child is None:
                time.sleep(seconds)
                return
            code = self._child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return
        except KeyboardInterrupt:
            self._stop()
            raise
        self._child = None
        idle = code not in (0, 1, 130)  # a verdict, or somebody stopped it
        self._rest = min(SLOWEST, 2 * self._rest or POLL) if idle else 0.0
        self._not_before = time.monotonic() + self._rest
        self.say(f"{self.suite}: a process ended with exit code {code}; {self._newest()}")

    def _newest(self) -> str:
        try:
            rows = self.ledger.rows(self.suite, 20)
        except SQLAlchemyError:
            return "the ledger does not answer"
        last = max((r for r in rows if r.began), key=lambda r: r.began or 0.0, default=None)
        said = f"slot {self.cron.local(last.slot)} {last.state}; " if last else ""
        return f"{said}next {self.cron.local(self.cron.next(time.time()))}"

    def _stop(self) -> None:
        """Ask the child to put all away; at a second Ctrl-C, at once."""
        while self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(PATIENCE)
                self._child = None
            except subprocess.TimeoutExpired:  # a signal that comes while modules are imported can be lost
                continue
            except KeyboardInterrupt:
                continue
