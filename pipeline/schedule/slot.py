"""One slot: claimed, rerun under a lease that a thread renews, and ended. A process of its own, which may die."""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from pipeline import notify
from pipeline.schedule.ledger import BEAT, LEASE, Claim, Ledger
from variants import InputError

Alive = Callable[[], None]  # raises `Lost` where the slot is no longer ours
Rerun = Callable[[str, Alive], int]  # of a slot's name; gives the exit code


class Lost(RuntimeError):
    """The lease ran out, and somebody else has the slot."""


def run(ledger: Ledger, suite: str, rerun: Rerun, say: Callable[[str], None]) -> int:
    """Do what is due, if anything is. Returns the exit code of the rerun; 0 where there is nothing to do."""
    ledger.plan(suite)
    claim = ledger.claim(suite, owner())
    if claim is None:
        say(f"{suite}: {_why(ledger, suite)}")
        return 0
    code, note = 3, "an error"
    try:
        with _lease(ledger, claim) as alive:
            code, note = rerun(name(claim.slot), alive), ""
    except InputError as error:
        code, note = 2, str(error)
        raise
    except KeyboardInterrupt:
        code, note = 130, "interrupted"
        raise
    except Lost as error:
        code = 130
        say(f"{suite}: {error}; what was done here does not count")
    except BaseException as error:
        note = f"{type(error).__name__}: {error}"
        raise
    finally:
        state = _end(ledger, claim, code, note)
        if state == "failed":
            problem = notify.send(f"Benchmark {suite}: failed", f"Slot {name(claim.slot)} failed: {note}", "failure")
            say(problem or f"{suite}: slot {name(claim.slot)} failed: {note}")
    return code


def _end(ledger: Ledger, claim: Claim, code: int, note: str) -> str | None:
    """End the slot; a store that is away is asked again for as long as the lease holds."""
    until = time.monotonic() + LEASE
    while True:
        try:
            return ledger.end(claim, code, note)
        except SQLAlchemyError:
            if time.monotonic() > until:
                raise
            time.sleep(2)


def owner() -> str:
    return f"{platform.node()} {os.getpid()}"


def name(slot: float) -> str:
    """A slot's name, which its rerun bears: its time in UTC."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(slot))


def _why(ledger: Ledger, suite: str) -> str:
    last = ledger.rows(suite, 1)
    if not last:
        return "no slot has come yet"
    row = last[0]
    by = f" by {row.owner}" if row.owner else ""
    return f"nothing to do; the newest slot, {name(row.slot)}, is {row.state}{by}"


@contextmanager
def _lease(ledger: Ledger, claim: Claim) -> Iterator[Callable[[], None]]:
    """Renews the lease while the block lasts. A store that is away is asked again, until the lease has run out.

    One that is lost interrupts this process; what the block gets raises `Lost` from then on.
    """
    stop, lost = threading.Event(), threading.Event()

    def renew() -> None:
        until = time.monotonic() + LEASE
        while not stop.wait(BEAT):
            try:
                if ledger.beat(claim):
                    until = time.monotonic() + LEASE
                    continue
                gone = True
            except SQLAlchemyError:
                gone = time.monotonic() > until
            if gone:
                lost.set()
                os.kill(os.getpid(), signal.SIGINT)
                return

    def alive() -> None:
        if lost.is_set() or not ledger.beat(claim):
            raise Lost(f"slot {name(claim.slot)} was given to another process, as this one did not answer for too long")

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield alive
    except KeyboardInterrupt:
        if lost.is_set():
            alive()
        raise
    finally:
        stop.set()
        thread.join()
