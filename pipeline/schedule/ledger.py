"""The ledger: one row for each slot, in SQLite or PostgreSQL, beside the tables of Optuna.

    waiting -> running -> done       a rerun ended with a verdict, good or bad (the exit code tells which)
       ^          |  `--> failed     it was given up
       '----------'                  its process died, or it failed: it is tried again later
    missed                           no scheduler was running at that time, or it waited until the next slot came

At most one slot of a suite is running, on any number of machines: a partial unique index ensures that. The process that
runs it holds a lease, which a heartbeat renews, and a token, which grows with each attempt. A process that lost its
lease has an old token and can neither renew the lease nor release the slot. Every change is a single statement, which
applies only if the row is still as it was read.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy
from sqlalchemy import Column, Float, Index, Integer, MetaData, String, Table, Text, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from pipeline.schedule.cron import Cron
from variants import InputError

State = Literal["waiting", "running", "done", "failed", "missed"]
FINAL: tuple[State, ...] = ("done", "failed", "missed")
LEASE_SECONDS = 120.0  # a process whose last heartbeat is older than this counts as dead
HEARTBEAT = 20.0  # seconds between two renewals of a lease
MAX_ATTEMPTS = 4
BACKOFF = 60.0  # seconds until the second attempt; each further attempt waits four times as long
POSTGRESQL_TIMEOUTS = {"connect_timeout": 10, "options": "-c statement_timeout=10000", "tcp_user_timeout": 15_000}

_tables = MetaData()
SLOTS = Table(
    "benchmark_slots", _tables,
    Column("suite", String(100), primary_key=True), Column("slot", Float(53), primary_key=True),
    Column("state", String(10), nullable=False), Column("attempts", Integer, nullable=False, default=0),
    Column("token", Integer, nullable=False, default=0), Column("owner", String(200), nullable=False, default=""),
    Column("due", Float(53), nullable=False), Column("lease", Float(53)), Column("began", Float(53)),
    Column("ended", Float(53)), Column("code", Integer), Column("note", Text, nullable=False, default=""),
)  # fmt: skip
_RUNNING = text("state = 'running'")
ONE_RUNNING = Index(
    "benchmark_one_running", SLOTS.c.suite, unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING
)
SCHEDULES = Table(
    "benchmark_schedules", _tables, Column("suite", String(100), primary_key=True),
    Column("cron", String(200), nullable=False), Column("zone", String(100), nullable=False),
    Column("since", Float(53), nullable=False), Column("told", Float(53), nullable=False, default=0.0),
)  # fmt: skip


@dataclass(frozen=True)
class Lease:
    """The right to run a slot. It holds for as long as the slot is running and its token is this one."""

    suite: str
    slot: float
    token: int


@dataclass(frozen=True, kw_only=True)
class SlotRow:
    """A slot as the ledger has it. Times are seconds since 1970; `due` is when it may be started."""

    suite: str
    slot: float
    state: State
    attempts: int
    token: int
    owner: str
    due: float
    lease: float | None
    began: float | None
    ended: float | None
    code: int | None
    note: str


class Ledger:
    """The tables of slots and of schedules. Raises `InputError` if the store cannot be opened.

    The time is that of the PostgreSQL server, so that all machines agree, or of this machine for SQLite. `clock` may
    replace it by another function that returns seconds since 1970.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        lite = url.startswith("sqlite")
        if not lite and not url.startswith("postgresql"):
            raise InputError(f"--storage {url.split(':', 1)[0]}:...: expected sqlite:///FILE or postgresql://...")
        try:
            # each change opens a connection and closes it: a service that waits for days holds none
            self._engine = sqlalchemy.create_engine(
                url, poolclass=sqlalchemy.pool.NullPool, connect_args={"timeout": 20} if lite else POSTGRESQL_TIMEOUTS
            )
            if lite and self._engine.url.database:
                Path(self._engine.url.database).absolute().parent.mkdir(parents=True, exist_ok=True)
            self._create()
        except (SQLAlchemyError, ImportError, OSError, ValueError) as error:
            kind, first = url.split(":", 1)[0], (str(error).splitlines() or [""])[0]
            address = url if lite else f"{kind}://..."  # the whole one may contain a password
            raise InputError(f"--storage {address} cannot be opened ({type(error).__name__}: {first})") from error
        self._clock = clock or (time.time if lite else self._server_time)

    def _create(self) -> None:
        tables = [CreateTable(t, if_not_exists=True) for t in _tables.sorted_tables]
        statements: list[Any] = [*tables, CreateIndex(ONE_RUNNING, if_not_exists=True)]
        for attempt in range(3):  # two processes that create them at once may collide in PostgreSQL all the same
            try:
                with self._engine.begin() as connection:
                    for statement in statements:
                        connection.execute(statement)
                return
            except SQLAlchemyError:
                if attempt == 2:
                    raise
                time.sleep(0.2)

    def _server_time(self) -> float:
        with self._engine.connect() as connection:
            return float(connection.execute(text("select extract(epoch from clock_timestamp())")).scalar_one())

    def now(self) -> float:
        return self._clock()

    def _change(self, statement: Any) -> int:
        """Execute a statement, and return how many rows it changed."""
        with self._engine.begin() as connection:
            return int(connection.execute(statement).rowcount)

    def set_schedule(self, suite: str, cron: Cron, since: float) -> None:
        """Store the times of a suite. If they differ from the stored ones, they apply from `since` on."""
        values = {"cron": cron.expression, "zone": cron.zone, "since": since}
        here = SCHEDULES.c.suite == suite
        differs = (SCHEDULES.c.cron != cron.expression) | (SCHEDULES.c.zone != cron.zone)
        if not self._change(update(SCHEDULES).where(here, differs).values(values)):
            self._insert_new(SCHEDULES, [{"suite": suite, **values}])

    def _insert_new(self, table: Table, rows: list[dict[str, Any]]) -> None:
        """Insert the rows whose key does not exist yet."""
        insert: Any = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        with self._engine.begin() as connection:
            connection.execute(insert(table).on_conflict_do_nothing(), rows)

    def cron(self, suite: str) -> tuple[Cron, float] | None:
        """Return the times of a suite and since when they apply, or None if it was never scheduled."""
        with self._engine.connect() as connection:
            row = connection.execute(select(SCHEDULES).where(SCHEDULES.c.suite == suite)).first()
        return (Cron(row.cron, row.zone), row.since) if row else None

    def _known_cron(self, suite: str) -> tuple[Cron, float]:
        schedule = self.cron(suite)
        assert schedule, f"{suite} is not scheduled"
        return schedule

    def refresh(self, suite: str) -> list[SlotRow]:
        """Record all slots that came since the last call, and free the slot of a process that died.

        Of the new slots, the newest waits and the others were missed. Returns the slots that this call has given up;
        of several callers, only one gets each.
        """
        cron, since = self._known_cron(suite)
        now = self.now()
        here = SLOTS.c.suite == suite
        dead = here & (SLOTS.c.state == "running") & (SLOTS.c.lease < now)
        values = {"token": SLOTS.c.token + 1, "note": SLOTS.c.note + " its process died;"}
        retry = dead & (SLOTS.c.attempts < MAX_ATTEMPTS)
        self._change(update(SLOTS).where(retry).values(state="waiting", due=now, **values))
        given_up = self._give_up(dead, now, values)
        with self._engine.connect() as connection:
            last = connection.execute(select(func.max(SLOTS.c.slot)).where(here)).scalar()
        new = cron.between(max(since, last or 0.0), now)
        if new:
            missed = {"suite": suite, "state": "missed", "note": "no scheduler was running"}
            rows: list[dict[str, Any]] = [{**missed, "slot": slot, "due": slot} for slot in new]
            rows[-1] |= {"state": "waiting", "note": ""}
            self._insert_new(SLOTS, rows)
        newest = new[-1] if new else last
        if newest is None:
            return given_up
        older = here & (SLOTS.c.slot < newest) & (SLOTS.c.state == "waiting")
        note = {"note": SLOTS.c.note + " overtaken by a later slot"}
        self._change(update(SLOTS).where(older, SLOTS.c.attempts == 0).values(state="missed", ended=now, **note))
        return given_up + self._give_up(older, now, note)

    def _give_up(self, condition: Any, now: float, values: dict[str, Any]) -> list[SlotRow]:
        """Mark slots as failed. Returns only those that this call has marked."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(SLOTS).where(condition)).all()
        marked = []
        for row in rows:
            unchanged = condition & (SLOTS.c.slot == row.slot) & (SLOTS.c.token == row.token)
            if self._change(update(SLOTS).where(unchanged).values(state="failed", ended=now, **values)):
                marked += [r for r in self.rows(row.suite) if r.slot == row.slot]
        return marked

    def overdue(self, suite: str, slots: int) -> str:
        """Return a message if `slots` slots or more have passed since the last rerun that ended, else nothing.

        Each such gap is reported once, to one caller.
        """
        cron, since = self._known_cron(suite)
        done = select(func.max(SLOTS.c.slot)).where(SLOTS.c.suite == suite, SLOTS.c.state == "done")
        with self._engine.connect() as connection:
            last = max(since, connection.execute(done).scalar() or 0.0)
        passed = len(cron.between(last, self.now())) - 1  # the newest may be running
        unreported = (SCHEDULES.c.suite == suite) & (SCHEDULES.c.told != last)
        if passed < slots or not self._change(update(SCHEDULES).where(unreported).values(told=last)):
            return ""
        return f"No rerun has ended since {cron.local(last)}, while {passed} slots passed."

    def acquire(self, suite: str, owner: str) -> Lease | None:
        """Take the slot that is due. Returns None if there is none, or if one is running. Call `refresh` before."""
        now = self.now()
        due = (SLOTS.c.suite == suite) & (SLOTS.c.state == "waiting") & (SLOTS.c.due <= now)
        with self._engine.connect() as connection:
            row = connection.execute(select(SLOTS).where(due).order_by(SLOTS.c.slot.desc())).first()
        if row is None:
            return None
        unchanged = due & (SLOTS.c.slot == row.slot) & (SLOTS.c.token == row.token)
        values = {
            "state": "running", "token": row.token + 1, "attempts": row.attempts + 1, "owner": owner,
            "lease": now + LEASE_SECONDS, "began": row.began or now,
        }  # fmt: skip
        try:
            changed = self._change(update(SLOTS).where(unchanged).values(values))
        except IntegrityError:  # another slot of the suite is running
            return None
        return Lease(suite, row.slot, row.token + 1) if changed else None

    def _leased(self, lease: Lease) -> Any:
        return (
            (SLOTS.c.suite == lease.suite) & (SLOTS.c.slot == lease.slot) & (SLOTS.c.token == lease.token)
            & (SLOTS.c.state == "running")
        )  # fmt: skip

    def renew(self, lease: Lease) -> bool:
        """Renew a lease. Returns False if it was lost."""
        return bool(self._change(update(SLOTS).where(self._leased(lease)).values(lease=self.now() + LEASE_SECONDS)))

    def release(self, lease: Lease, code: int, note: str = "", pause: float = 0.0) -> State | None:
        """End a slot, and return its new state, or None if the lease was lost.

        Exit codes 0 and 1 are verdicts: the slot is done. 130 means that the rerun was asked to stop: the slot waits
        for at least `pause` seconds, and the attempt does not count. After any other code it is tried again, later each
        time, and failed after `MAX_ATTEMPTS` attempts.
        """
        now = self.now()
        with self._engine.connect() as connection:
            attempts = connection.execute(select(SLOTS.c.attempts).where(self._leased(lease))).scalar() or 0
        note = f" {note};" if note else ""
        values: dict[str, Any] = {"code": code, "ended": now, "note": SLOTS.c.note + note}
        state: State
        if code in (0, 1):
            state = "done"
        elif code == 130:
            state = "waiting"
            values |= {"attempts": SLOTS.c.attempts - 1, "due": now + pause, "ended": None}
        elif attempts >= MAX_ATTEMPTS:
            state = "failed"
        else:
            state = "waiting"
            values |= {"due": now + BACKOFF * 4 ** (attempts - 1), "ended": None}
        return state if self._change(update(SLOTS).where(self._leased(lease)).values(state=state, **values)) else None

    def has_due_slot(self, suite: str) -> bool:
        """Return whether `acquire` would probably succeed now."""
        now, here = self.now(), SLOTS.c.suite == suite
        with self._engine.connect() as connection:
            running = connection.execute(select(SLOTS.c.slot).where(here, SLOTS.c.state == "running")).first()
            due = connection.execute(select(SLOTS.c.slot).where(here, SLOTS.c.state == "waiting", SLOTS.c.due <= now))
            return running is None and due.first() is not None

    def rows(self, suite: str | None = None, last: int | None = None) -> list[SlotRow]:
        """Return slots, oldest first: all of them, or the `last` ones."""
        query = select(SLOTS).order_by(SLOTS.c.slot.desc())
        query = query.where(SLOTS.c.suite == suite) if suite else query
        with self._engine.connect() as connection:
            rows = connection.execute(query.limit(last) if last else query).all()
        return [SlotRow(**row._mapping) for row in reversed(rows)]

    def suites(self) -> list[str]:
        """Return the names of all suites that were ever scheduled."""
        with self._engine.connect() as connection:
            return sorted(connection.execute(select(SCHEDULES.c.suite)).scalars())
