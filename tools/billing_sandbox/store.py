"""State in one SQLite file: objects as JSON with the few columns that are asked by. One transaction a request; kill -9 loses none."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL,
    customer TEXT, subscription TEXT, invoice TEXT, status TEXT, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_customer ON objects (kind, customer, seq);
CREATE INDEX IF NOT EXISTS by_subscription ON objects (kind, subscription, seq);
CREATE INDEX IF NOT EXISTS by_invoice ON objects (kind, invoice, seq);
CREATE INDEX IF NOT EXISTS by_status ON objects (kind, status, seq);
CREATE TABLE IF NOT EXISTS owners (item TEXT PRIMARY KEY, owner TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS meter_events (
    identifier TEXT PRIMARY KEY, event_name TEXT NOT NULL, customer TEXT NOT NULL, at INTEGER NOT NULL, value TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS meter_events_by ON meter_events (event_name, customer, at);
CREATE TABLE IF NOT EXISTS idempotency (key TEXT PRIMARY KEY, request TEXT NOT NULL, status INTEGER NOT NULL, body TEXT NOT NULL, at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, endpoint TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL, state TEXT NOT NULL DEFAULT 'pending', answer TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (state, next_at);
CREATE TABLE IF NOT EXISTS timers (owner TEXT NOT NULL, name TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (owner, name));
CREATE INDEX IF NOT EXISTS timers_at ON timers (at);
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Store:
    def __init__(self, path: Path | str):
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")  # enough against a killed process; a power cut may lose the last moments, never corrupt
        self.db.executescript(SCHEMA)

    def close(self) -> None:
        self.db.close()

    # Transactions

    def begin(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.db.execute("COMMIT")

    def rollback(self) -> None:
        self.db.execute("ROLLBACK")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """What happens inside is taken back at the end: how previews are made."""
        self.db.execute("SAVEPOINT preview")
        try:
            yield
        finally:
            self.db.execute("ROLLBACK TO preview")
            self.db.execute("RELEASE preview")

    # Objects

    def put(self, item: dict, **columns: str | None) -> None:
        """Insert or replace by id. `columns`: customer, subscription, invoice where they are not plain fields of the object."""
        values = {name: columns.get(name, item.get(name)) for name in ("customer", "subscription", "invoice", "status")}
        values = {name: value if isinstance(value, str) else None for name, value in values.items()}
        self.db.execute(
            "INSERT INTO objects (id, kind, customer, subscription, invoice, status, data) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "customer = excluded.customer, subscription = excluded.subscription, invoice = excluded.invoice, status = excluded.status, data = excluded.data",
            (item["id"], item["object"], *values.values(), json.dumps(item, separators=(",", ":"))))  # fmt: skip

    def get(self, id: str) -> dict | None:
        row = self.db.execute("SELECT data FROM objects WHERE id = ?", (id,)).fetchone()
        return json.loads(row[0]) if row else None

    def sequence(self, id: str) -> int | None:
        row = self.db.execute("SELECT seq FROM objects WHERE id = ?", (id,)).fetchone()
        return row[0] if row else None

    def remove(self, id: str) -> None:
        self.db.execute("DELETE FROM objects WHERE id = ?", (id,))

    def find(self, kind: str, *, after: int | None = None, before: int | None = None, **columns: str) -> Iterator[dict]:
        """Newest first. after/before: sequence numbers; `before` turns the order around."""
        where, values = ["kind = ?"], [kind]
        for name, value in columns.items():
            where.append(f"{name} = ?")
            values.append(value)
        if after is not None:
            where.append("seq < ?")
            values.append(after)
        if before is not None:
            where.append("seq > ?")
            values.append(before)
        order = "ASC" if before is not None else "DESC"
        for row in self.db.execute(f"SELECT data FROM objects WHERE {' AND '.join(where)} ORDER BY seq {order}", values):  # noqa: S608 - names are ours
            yield json.loads(row[0])

    def all(self, kind: str, **columns: str) -> list[dict]:
        return list(self.find(kind, **columns))

    def own(self, item: str, owner: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (item, owner))

    def owner(self, item: str) -> str | None:
        row = self.db.execute("SELECT owner FROM owners WHERE item = ?", (item,)).fetchone()
        return row[0] if row else None

    # Timers and deliveries

    def set_timer(self, owner: str, name: str, at: int | None) -> None:
        if at is None:
            self.db.execute("DELETE FROM timers WHERE owner = ? AND name = ?", (owner, name))
        else:
            self.db.execute("INSERT OR REPLACE INTO timers VALUES (?, ?, ?)", (owner, name, at))

    def next_timer(self, until: int) -> tuple[str, str, int] | None:
        """(owner, name, at) of the earliest one due; those of one moment in the order of their names (lifecycle.TIMERS counts on it)."""
        return self.db.execute("SELECT owner, name, at FROM timers WHERE at <= ? ORDER BY at, name, rowid LIMIT 1", (until,)).fetchone()

    def queue_delivery(self, event: str, endpoint: str, next_at: float = 0) -> None:
        self.db.execute("INSERT INTO deliveries (event, endpoint, next_at) VALUES (?, ?, ?)", (event, endpoint, next_at))

    def due_deliveries(self, now: float, limit: int) -> list[tuple[int, str, str, int]]:
        """(id, event, endpoint, attempts), those that wait longest first."""
        query = "SELECT id, event, endpoint, attempts FROM deliveries WHERE state = 'pending' AND next_at <= ? ORDER BY next_at, id LIMIT ?"
        return self.db.execute(query, (now, limit)).fetchall()

    def settle_delivery(self, id: int, state: str, attempts: int, answer: str, next_at: float = 0) -> None:
        self.db.execute("UPDATE deliveries SET state = ?, attempts = ?, answer = ?, next_at = ? WHERE id = ?", (state, attempts, answer[:300], next_at, id))

    def delivery_states(self) -> dict[str, int]:
        return dict(self.db.execute("SELECT state, count(*) FROM deliveries GROUP BY state"))

    # Answers to idempotent requests

    def answered(self, key: str) -> tuple[str, int, str] | None:
        """(fingerprint of the request, status, body)."""
        return self.db.execute("SELECT request, status, body FROM idempotency WHERE key = ?", (key,)).fetchone()

    def remember(self, key: str, request: str, status: int, body: str, at: int) -> None:
        self.db.execute("DELETE FROM idempotency WHERE at < ?", (at - 30 * 86_400,))
        self.db.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?, ?)", (key, request, status, body, at))

    # Usage

    def add_usage(self, identifier: str, event_name: str, customer: str, at: int, value: str) -> bool:
        """False when the identifier is known already."""
        row = (identifier, event_name, customer, at, value)
        return self.db.execute("INSERT OR IGNORE INTO meter_events (identifier, event_name, customer, at, value) VALUES (?, ?, ?, ?, ?)", row).rowcount == 1

    def drop_usage(self, identifier: str, event_name: str, since: int) -> bool:
        where = (identifier, event_name, since)
        return self.db.execute("DELETE FROM meter_events WHERE identifier = ? AND event_name = ? AND at >= ?", where).rowcount == 1

    def usage(self, event_name: str, customer: str, start: int, end: int) -> list[str]:
        """Values of [start, end), oldest first."""
        query = "SELECT value FROM meter_events WHERE event_name = ? AND customer = ? AND at >= ? AND at < ? ORDER BY at, rowid"
        return [row[0] for row in self.db.execute(query, (event_name, customer, start, end))]

    # Settings

    def setting(self, name: str, default=None):
        row = self.db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return json.loads(row[0]) if row else default

    def set(self, name: str, value) -> None:
        self.db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))
