"""`python -m pipeline.schedule`: rerun a suite at scheduled times."""

import sys
from typing import TYPE_CHECKING

from pipeline import cli

if TYPE_CHECKING:
    from pipeline.progress import Display
    from pipeline.schedule.ledger import Ledger

ABOUT = """Rerun a suite of benchmarks at the times of a crontab expression, each time once.

The command runs in the foreground until it is stopped. With --once it does what is due and ends, for cron, a systemd
timer, a Kubernetes CronJob or a CI schedule. Any number of these commands, on any number of machines, may share a
ledger (--storage): each time, called a slot, is run by one of them. If slots passed while no scheduler was running,
the newest is caught up and the others are recorded as missed."""

EPILOG = """exit codes with --once: 0 nothing got worse, or nothing was due; 1 something is worse, drifting or failed;
2 bad usage; 3 a defect of this program; 130 interrupted. A suite has one set of times: other times replace it, and end
the services that run with the old ones. The ledger is two tables in --storage, beside those of Optuna.

examples:
  python -m pipeline.schedule smoke --cron "0 3 * * *" --timezone Europe/Zurich --workers 2
  python -m pipeline.schedule nightly --cron "30 22 * * 1-5" --once --storage postgresql://...
  python -m pipeline.schedule --history
"""


def main(arguments: list[str]) -> int:
    parser = cli.parser("schedule", ABOUT, "--storage", "--out", *cli.COMPUTE, epilog=EPILOG)
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="a suite of pipeline.benchmark")
    parser.add_argument("--cron", metavar="TIMES", help='minute, hour, day of month, month, weekday: "0 3 * * *"')
    parser.add_argument("--timezone", default="UTC", metavar="ZONE", help="of the times, such as Europe/Zurich (UTC)")
    parser.add_argument(
        "--limit", type=cli.seconds, default=12 * 3600.0, metavar="SECONDS", help="stop a rerun after this long (12h)"
    )
    parser.add_argument("--once", action="store_true", help="run the slot that is due, and end")
    parser.add_argument("--history", action="store_true", help="show what became of the last slots")
    options = parser.parse_args(arguments)

    from pipeline import machine, notify
    from pipeline.progress import Display
    from pipeline.schedule import slot
    from pipeline.schedule.cron import Cron
    from pipeline.schedule.ledger import Ledger
    from studies import benchmark as suites
    from variants import InputError

    display = Display()
    if options.history:
        return _show_history(Ledger(options.storage), options.suite, display)
    if options.suite is None or options.cron is None:
        raise InputError('expected a suite and its times: python -m pipeline.schedule smoke --cron "0 3 * * *"')
    suites.get(options.suite)
    notify.check()
    machine.writable(options.out)
    cron = Cron(options.cron, options.timezone)
    ledger = Ledger(options.storage)
    now = ledger.now()
    if not options.once:
        from pipeline.schedule.service import Service

        ledger.set_schedule(options.suite, cron, now)
        command = [sys.executable, "-m", "pipeline.schedule", *arguments, "--once"]
        Service(ledger=ledger, suite=options.suite, cron=cron, command=command, say=display.say).run()
    ledger.set_schedule(options.suite, cron, cron.last(now) - 1)

    def run_slot(name: str, check_lease: slot.CheckLease) -> int:
        from pipeline.benchmark import report, rerun

        request = rerun.RerunRequest(suite=options.suite, slot=name, compute=cli.compute(options))
        return report.publish(rerun.run(request, display, check_lease), display, options.out)

    return slot.run(ledger, options.suite, run_slot, display.say, options.limit)


def _show_history(ledger: "Ledger", suite: str | None, display: "Display") -> int:
    from rich.markup import escape
    from rich.table import Table

    suites = [suite] if suite else ledger.suites()
    for name in suites:
        schedule = ledger.cron(name)
        if schedule is None:
            display.say(f"{name}: never scheduled here")
            continue
        cron, _ = schedule
        table = Table("slot", "state", "attempts", "code", "by", "seconds", "", title=f"{name}: {cron.describe()}")
        for row in ledger.rows(name, 30):
            seconds = f"{row.ended - row.began:.0f}" if row.began and row.ended else ""
            code = "" if row.code is None else str(row.code)
            cells = (cron.local(row.slot), row.state, str(row.attempts), code, row.owner, seconds, row.note.strip())
            table.add_row(*map(escape, cells))
        display.show(table)
    if not suites:
        display.say("no suite was ever scheduled here")
    return 0


if __name__ == "__main__":
    cli.run(main, "the same command continues where this one stopped")
