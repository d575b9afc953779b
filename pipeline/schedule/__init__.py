"""Reruns of benchmarks at scheduled times: each time once, even if processes or machines die.

cron      the times of a crontab expression in a time zone
ledger    one row for each scheduled time (a slot), in SQLite or PostgreSQL
slot      one slot: acquire its lease, rerun the suite, release the lease
service   waits for the next slot, and starts a process for it
"""
