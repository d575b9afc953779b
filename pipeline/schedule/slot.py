"""One slot: acquire its lease, rerun the suite while a thread renews the lease, and release it.

This runs in a process of its own, which may die at any moment.
"""

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from pipeline import notify
from pipeline.machine import AlreadyRunning
from pipeline.schedule.ledger import HEARTBEAT, LEASE_SECONDS, Lease, Ledger
from variants import InputError

OVERDUE_SLOTS = 2  # people are notified if so many slots pass without a rerun
TIME_LIMIT = 12 * 3600.0  # seconds that a rerun may take
BUSY_PAUSE = 60.0  # seconds until the next attempt, if the suite is being rerun by hand
Say = Callable[[str], None]  # prints a line
CheckLease = Callable[[], None]  # raises `LeaseLost` if the lease was lost
RunSlot = Callable[[str, CheckLease], int]  # reruns the suite for the slot of that name, and returns the exit code


class LeaseLost(RuntimeError):
    """The lease was not renewed in time, so that another process may have the slot."""


class RerunTimeout(RuntimeError):
    """The rerun took longer than it was allowed to."""


def refresh(ledger: Ledger, suite: str, say: Say) -> None:
    """Record the slots that came, and notify people of slots that were given up and of overdue reruns."""
    for row in ledger.refresh(suite):
        message = f"Slot {name(row.slot)} was tried {row.attempts} times, and is given up:{row.note}"
        _notify(suite, "failed", message, say)
    if message := ledger.overdue(suite, OVERDUE_SLOTS):
        _notify(suite, "no rerun for too long", message, say)


def _notify(suite: str, event: str, message: str, say: Say) -> None:
    say(f"{suite}: {event}: {message}")
    problem = notify.send(f"Benchmark {suite}: {event}", message, "failure")
    if problem:
        say(f"warning: {problem}")


def run(ledger: Ledger, suite: str, rerun: RunSlot, say: Say, limit: float = TIME_LIMIT) -> int:
    """Run the slot that is due. Returns the exit code of its rerun, or 0 if no slot is due.

    A rerun that takes longer than `limit` seconds is stopped, and tried again later.
    """
    refresh(ledger, suite, say)
    lease = ledger.acquire(suite, f"{platform.node()} {os.getpid()}")
    if lease is None:
        say(f"{suite}: {_why_nothing_is_due(ledger, suite)}")
        return 0
    code, note, pause = 3, "an error", 0.0
    try:
        with _renewed(ledger, lease, limit) as check_lease:
            code, note = rerun(name(lease.slot), check_lease), ""
    except AlreadyRunning as error:  # somebody reruns the suite by hand
        code, note, pause = 130, "", BUSY_PAUSE
        say(f"{suite}: {error}")
    except LeaseLost as error:
        code, note = 130, ""
        say(f"{suite}: {error}")
    except RerunTimeout as error:
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
        if _release(ledger, lease, code, note, pause) == "failed":
            _notify(suite, "failed", f"Slot {name(lease.slot)} was given up: {note}", say)
    return code


def _release(ledger: Ledger, lease: Lease, code: int, note: str, pause: float) -> str | None:
    """Release the lease. If the store does not answer, try again for as long as the lease could last."""
    until = time.monotonic() + LEASE_SECONDS
    while True:
        try:
            return ledger.release(lease, code, note, pause)
        except SQLAlchemyError:
            if time.monotonic() > until:
                raise
            time.sleep(2)


def name(slot: float) -> str:
    """Return the name of a slot, which is its time in UTC. The id of its rerun contains it."""
    return time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime(slot))


def _why_nothing_is_due(ledger: Ledger, suite: str) -> str:
    rows = ledger.rows(suite, 1)
    if not rows:
        return "no slot has come yet"
    owner = f" (last process: {rows[0].owner})" if rows[0].owner else ""
    return f"nothing to do; the newest slot, {name(rows[0].slot)}, is {rows[0].state}{owner}"


@contextmanager
def _renewed(ledger: Ledger, lease: Lease, limit: float) -> Iterator[CheckLease]:
    """Renew a lease from a thread for as long as the block lasts. The block receives a function that checks the lease.

    If the lease is lost, or if the block takes longer than `limit` seconds, the thread interrupts this process, and
    `LeaseLost` or `RerunTimeout` is raised. If the store does not answer, the thread tries again until shortly before
    the lease would run out.
    """
    stop, lost, timed_out = threading.Event(), threading.Event(), threading.Event()

    def renew() -> None:
        start = renewed = time.monotonic()
        while not stop.wait(HEARTBEAT):
            now = time.monotonic()
            if now - start > limit:
                timed_out.set()
                break
            try:
                if not ledger.renew(lease):
                    lost.set()
                    break
                renewed = now
            except SQLAlchemyError:
                if time.monotonic() - renewed > LEASE_SECONDS * 2 / 3:
                    lost.set()
                    break
        while not stop.is_set():  # repeated, because a signal that arrives during an import can get lost
            os.kill(os.getpid(), signal.SIGTERM)
            stop.wait(HEARTBEAT)

    def check_lease() -> None:
        if lost.is_set() or not ledger.renew(lease):
            raise LeaseLost(f"slot {name(lease.slot)} was lost to another process: its lease was not renewed in time")

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield check_lease
    except KeyboardInterrupt:
        if timed_out.is_set():
            raise RerunTimeout(f"slot {name(lease.slot)} took longer than {limit:.0f} s, and was stopped") from None
        if lost.is_set():
            raise LeaseLost(f"slot {name(lease.slot)} was lost: its lease could not be renewed in time") from None
        raise
    finally:
        stop.set()
        thread.join(2 * HEARTBEAT)
