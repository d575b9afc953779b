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
from pipeline.machine import Busy
from pipeline.schedule.ledger import BEAT, LEASE, Claim, Ledger
from variants import InputError

LATE = 2  # slots without a rerun, after which somebody hears of it
LIMIT = 12 * 3600.0  # seconds that a rerun may take
BUSY = 60.0  # seconds until a slot is tried that found its suite at work
Alive = Callable[[], None]  # raises `Lost` where the slot is no longer ours
Rerun = Callable[[str, Alive], int]  # of a slot's name; gives the exit code


class Lost(RuntimeError):
    """The lease ran out, and somebody else has the slot."""


class RerunTooLong(RuntimeError):
    """A rerun that had more time than it was given."""


def tend(ledger: Ledger, suite: str, say: Callable[[str], None]) -> None:
    """Write down what came, and tell somebody of slots that are given up, and of no rerun for too long."""
    for row in ledger.plan(suite):
        _tell(suite, "failed", f"Slot {name(row.slot)} was tried {row.attempts} times, and is given up:{row.note}", say)
    words = ledger.late(suite, LATE)
    if words:
        _tell(suite, "no rerun for too long", words, say)


def _tell(suite: str, what: str, words: str, say: Callable[[str], None]) -> None:
    say(f"{suite}: {what}: {words}")
    problem = notify.send(f"Benchmark {suite}: {what}", words, "failure")
    if problem:
        say(f"mind: {problem}")


def run(ledger: Ledger, suite: str, rerun: Rerun, say: Callable[[str], None], limit: float = LIMIT) -> int:
    """Do what is due, if anything is. Returns the exit code of the rerun; 0 where there is nothing to do.

    A rerun that takes longer than `limit` seconds is stopped, and tried again.
    """
    tend(ledger, suite, say)
    claim = ledger.claim(suite, owner())
    if claim is None:
        say(f"{suite}: {_why(ledger, suite)}")
        return 0
    code, note, pause = 3, "an error", 0.0
    try:
        with _lease(ledger, claim, limit) as alive:
            code, note = rerun(name(claim.slot), alive), ""
    except Busy as error:  # somebody does the same by hand: no try of ours
        code, note, pause = 130, "", BUSY
        say(f"{suite}: {error}")
    except Lost as error:
        code, note = 130, ""
        say(f"{suite}: {error}")
    except RerunTooLong as error:
        code, note = 3, str(error)
        say(f"{suite}: {error}")
    except InputError as error:
        code, note = 2, str(error)
        raise
    except KeyboardInterrupt:
        code, note = 130, "interrupted"
        raise
    except BaseException as error:
        note = f"{type(error).__name__}: {error}"
        raise
    finally:
        if _end(ledger, claim, code, note, pause) == "failed":
            _tell(suite, "failed", f"Slot {name(claim.slot)} was given up: {note}", say)
    return code


def _end(ledger: Ledger, claim: Claim, code: int, note: str, pause: float) -> str | None:
    """End the slot; a store that is away is asked again for as long as the lease holds."""
    until = time.monotonic() + LEASE
    while True:
        try:
            return ledger.end(claim, code, note, pause)
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
def _lease(ledger: Ledger, claim: Claim, limit: float) -> Iterator[Alive]:
    """Renews the lease while the block lasts. A store that is away is asked again, while the lease lasts.

    Once the lease is lost, or the limit reached, this process is interrupted; what the block gets raises `Lost` then.
    """
    stop, lost, late = threading.Event(), threading.Event(), threading.Event()

    def renew() -> None:
        begin = until = time.monotonic()
        while not stop.wait(BEAT):
            asked = time.monotonic()
            if asked - begin > limit:
                late.set()
                break
            try:
                if not ledger.beat(claim):
                    lost.set()
                    break
                until = asked
            except SQLAlchemyError:
                if time.monotonic() - until > LEASE * 2 / 3:  # before anybody else takes it
                    lost.set()
                    break
        while not stop.is_set():  # more than once: a signal that comes while modules are imported can be lost
            os.kill(os.getpid(), signal.SIGTERM)
            stop.wait(BEAT)

    def alive() -> None:
        if lost.is_set() or not ledger.beat(claim):
            raise Lost(f"slot {name(claim.slot)} is another process's by now: this one did not renew its lease in time")

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield alive
    except KeyboardInterrupt:
        if late.is_set():
            raise RerunTooLong(f"slot {name(claim.slot)} took longer than {limit:.0f} s, and was stopped") from None
        if lost.is_set():
            raise Lost(f"slot {name(claim.slot)} was lost: its lease could not be renewed in time") from None
        raise
    finally:
        stop.set()
        thread.join(2 * BEAT)
