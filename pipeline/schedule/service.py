"""A service that waits for the next slot, and starts a process for it.

The service keeps nothing in memory that a slot needs. If it or its child dies, the ledger has what remains to be done,
and any service or `--once` on any machine does it.
"""

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from pipeline.schedule import slot
from pipeline.schedule.cron import Cron
from pipeline.schedule.ledger import Ledger
from variants import InputError

POLL = 15.0  # seconds between two looks at the ledger, for slots of dead processes and for changed times
STOP_PATIENCE = 20.0  # seconds that a child has to stop before it is asked again
MAX_REST = 600.0  # the longest pause after children that end without a verdict, in seconds


@dataclass(kw_only=True)
class Service:
    """Runs the slots of one suite, one process after the other."""

    ledger: Ledger
    suite: str
    cron: Cron
    command: Sequence[str]  # runs the slot that is due, and ends
    say: slot.Say
    _child: "subprocess.Popen[bytes] | None" = None
    _rest: float = 0.0  # seconds to wait after a child that ended without a verdict
    _not_before: float = 0.0  # when the next child may start, on the monotonic clock

    def run(self) -> None:
        """Run until the process is interrupted. Raises `InputError` if another process changes the suite's times."""
        self.say(f"{self.suite}: {self.cron.describe()}; {self._next()}")
        problem = ""
        while True:
            pause = POLL
            try:
                self._poll()
                problem = ""
                now = self.ledger.now()
                pause = min(POLL, max(0.05, self.cron.next(now) - now))
            except SQLAlchemyError as error:
                message = str(error).splitlines()[0]
                if message != problem:
                    self.say(f"the ledger does not answer; trying again every {POLL:.0f} s: {message}")
                problem = message
            self._wait(pause)

    def _poll(self) -> None:
        """Refresh the ledger, and start a child if a slot is due."""
        schedule = self.ledger.cron(self.suite)
        if schedule is None or schedule[0] != self.cron:
            self._stop()
            raise InputError(f"another process changed the times of {self.suite}; this service ends")
        slot.refresh(self.ledger, self.suite, self.say)
        if self._child is None and time.monotonic() >= self._not_before and self.ledger.has_due_slot(self.suite):
            self._child = subprocess.Popen(self.command, start_new_session=True)  # Ctrl-C reaches only this process

    def _wait(self, seconds: float) -> None:
        """Wait for a time, or until the child ends."""
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
        failed = code not in (0, 1, 130)  # no verdict, and nobody stopped it
        self._rest = min(MAX_REST, 2 * self._rest or POLL) if failed else 0.0
        self._not_before = time.monotonic() + self._rest
        self.say(f"{self.suite}: a process ended with exit code {code}; {self._state()}")

    def _state(self) -> str:
        try:
            rows = self.ledger.rows(self.suite, 20)
        except SQLAlchemyError:
            return "the ledger does not answer"
        last = max((r for r in rows if r.began), key=lambda r: r.began or 0.0, default=None)
        return f"slot {self.cron.local(last.slot)} is {last.state}; {self._next()}" if last else self._next()

    def _next(self) -> str:
        return f"next {self.cron.local(self.cron.next(time.time()))}"

    def _stop(self) -> None:
        """Ask the child to stop until it does. A second Ctrl-C asks it at once to stop without cleaning up."""
        while self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(STOP_PATIENCE)
                self._child = None
            except subprocess.TimeoutExpired:  # a signal that arrives during an import can get lost
                continue
            except KeyboardInterrupt:
                continue
