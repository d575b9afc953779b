"""Reruns at their times, each once, whatever dies.

cron      the times of a crontab expression in a time zone
ledger    a row a slot: the truth, in SQLite or PostgreSQL
slot      one slot: claimed, rerun under a lease, ended
service   waits for the next slot, and starts a process for it
"""
