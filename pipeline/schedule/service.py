"""Waits for the next slot, and starts a process for it. It holds nothing that a slot needs: whether it or its children
die, the ledger knows what is to be done, and any service or `--once` of any machine does it.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from pipeline import notify
from pipeline.schedule.cron import Cron
from pipeline.schedule.ledger import Ledger
from variants import InputError

POLL = 15.0  # seconds between looks at the ledger: for what others left behind, and for times that changed
LATE = 2  # slots without a rerun, after which somebody hears of it


@dataclass
class Service:
    """`line` is the command that does one slot. `say` gets a line whenever something happens."""

    ledger: Ledger
    suite: str
    cron: Cron
    line: Sequence[str]
    say: Callable[[str], None]
    sleep: Callable[[float], None] = time.sleep
    _late: bool = False

    def run(self) -> None:
        """Until it is interrupted. Raises `InputError` where another service changes the suite's times."""
        self.say(f"{self.suite}: {self.cron.words()}; next {self.cron.local(self.cron.next(self.ledger.now()))}")
        trouble = ""
        while True:
            try:
                self.look()
                trouble = ""
                now = self.ledger.now()
                pause = min(POLL, max(0.05, self.cron.next(now) - now))
            except SQLAlchemyError as error:
                said = str(error).splitlines()[0]
                if said != trouble:
                    self.say(f"the ledger does not answer, and is asked again every {POLL:.0f} s: {said}")
                trouble, pause = said, POLL
            self.sleep(pause)

    def look(self) -> None:
        """Write down what came, do what is due, and mind the time."""
        known = self.ledger.cron(self.suite)
        if known is None or known[0] != self.cron:
            raise InputError(f"the times of {self.suite} were changed by another process; this one ends")
        self.ledger.plan(self.suite)
        if self.ledger.waits(self.suite):
            self._start()
        self._mind(known[1])

    def _start(self) -> None:
        child = subprocess.Popen(self.line, start_new_session=True)  # it hears of Ctrl-C from us alone
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.terminate()
            try:
                child.wait()
            except KeyboardInterrupt:  # a second one: at once
                child.terminate()
                child.wait()
            raise
        row = self.ledger.rows(self.suite, 1)[0]
        after = f"; next {self.cron.local(self.cron.next(self.ledger.now()))}"
        self.say(f"{self.suite}: slot {self.cron.local(row.slot)} {row.state}, exit code {code}{after}")

    def _mind(self, since: float) -> None:
        """Say once that there was no rerun for too long, and once that there is one again."""
        done = max((r.slot for r in self.ledger.rows(self.suite, 50) if r.state == "done"), default=since)
        missing = len(self.cron.between(done, self.ledger.now())) - 1  # the newest may be at work
        late = missing >= LATE
        if late and not self._late:
            words = f"The last rerun that ended was that of {self.cron.local(done)}; {missing} slots came and went."
            self.say(f"{self.suite}: {words}")
            notify.send(f"Benchmark {self.suite}: no rerun for too long", words, "warning")
        self._late = late
