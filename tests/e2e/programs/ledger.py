"""What the writer program does, as a function of numbers, and what must be there afterwards.

A ledger is a file of JSON lines that the writer appends to: `begin` and `settled` of a round, and
one line for each acknowledged write. Every write is planned from (round, thread, step) and the rows
its thread owned before, so a line needs no content: whoever reads the ledger plans the write again
and knows every bit of every row. Threads own their ids, so the writes of a thread are its history.

Each write carries the idempotency key "round/thread/step". The receipts in a collection say which
writes are in it; the rows must then be exactly what those writes make.
"""

import functools
import json
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

DIMENSION = 16
THREADS = 3
IDS = 160
COLLECTION = "docs"
SETTINGS = {
    "bulk_bytes": 4096,
    "flush_bytes": 24 * 1024,
    "flush_commits": 40,
    "merge_bytes": 256 * 1024,
    "merge_count": 3,
    "wal_reserve_bytes": 16 * 1024,
    "wal_extend_bytes": 64 * 1024,
    "ballast_bytes": 64 * 1024,
    "low_water_bytes": 0,
    "idle_marker_ms": 5,
    "orphan_age_hours": 0,
}


class WrongError(Exception):
    """The data directory contradicts the ledger."""


@functools.cache
def vector_of(record_id, version):
    """Return the vector of a record: bits that nothing but this id and version has."""
    generator = np.random.default_rng([version, *record_id.encode()])
    return generator.standard_normal(DIMENSION).astype(np.float32)


@dataclass
class Step:
    """One write of a thread: keyword arguments of a collection's method, and its effect."""

    name: tuple  # (round, thread, step)
    method: str
    arguments: dict
    effect: dict  # id -> (version, metadata), None for gone

    @property
    def key(self):
        """The idempotency key."""
        return "/".join(map(str, self.name))

    def run(self, collection):
        """Do it. Vectors are made only here: they are a function of id and version."""
        arguments = {**self.arguments, "idempotency_key": self.key}
        for content in (arguments, arguments.get("upserts", {})):
            if "vectors" in content:
                vectors = [vector_of(i, self.effect[i][0]) for i in content["ids"]]
                content["vectors"] = np.stack(vectors)
        return getattr(collection, self.method)(**arguments)


def plan(name, rows):
    """Return the write called `name`, given the rows of its thread: id -> (version, metadata)."""
    turn, thread, step = name
    chance = random.Random(f"{turn}/{thread}/{step}")
    version = (turn * 100_000 + step) * 10
    everything = [f"t{thread}-{number}" for number in range(IDS)]
    kind = chance.choices(
        ["upsert", "insert", "delete", "update", "write", "bulk"], [31, 15, 16, 16, 20, 2]
    )[0]
    if kind == "update" and rows:
        ids = chance.sample(sorted(rows), min(len(rows), 3))
        effect = {i: (rows[i][0], {**(rows[i][1] or {}), "updated": version}) for i in ids}
        metadata = [{"updated": version}] * len(ids)
        return Step(name, "update_metadata", {"ids": ids, "metadata": metadata}, effect)
    if kind == "delete":
        ids = chance.sample(everything, 4)
        return Step(name, "delete", {"ids": ids}, dict.fromkeys(ids))
    count = 100 if kind == "bulk" else chance.randint(1, 6)
    if kind == "insert":
        everything = [i for i in everything if i not in rows] or [f"t{thread}-new-{version}"]
    ids = chance.sample(everything, min(count, len(everything)))
    effect = {i: (version, {"version": version, "text": "ä" * (version % 50)}) for i in ids}
    content = {
        "ids": ids,
        "vectors": None,
        "metadata": [effect[i][1] for i in ids],
    }
    if kind in {"write", "bulk"}:
        gone = [i for i in chance.sample(sorted(rows), min(len(rows), 2)) if i not in effect]
        documents = {("progress", f"t{thread}"): {"round": turn, "step": step}}
        arguments = {"upserts": content, "deletes": gone, "documents": documents}
        return Step(name, "write", arguments, {**effect, **dict.fromkeys(gone)})
    return Step(name, "insert" if kind == "insert" else "upsert", content, effect)


@dataclass
class Model:
    """What the writes of each thread make."""

    rows: list = field(default_factory=lambda: [{} for _ in range(THREADS)])
    progress: dict = field(default_factory=dict)

    def plan(self, name):
        """Return the write called `name` as it follows here."""
        return plan(name, self.rows[name[1]])

    def apply(self, step):
        """Take over the effect of a write."""
        rows = self.rows[step.name[1]]
        rows.update(step.effect)
        for record_id in [i for i, value in step.effect.items() if value is None]:
            del rows[record_id]
        for (_, key), value in step.arguments.get("documents", {}).items():
            self.progress[key] = value


@dataclass
class Ledger:
    """The acknowledged writes."""

    lsns: dict = field(default_factory=dict)  # (round, thread, step) -> LSN
    begun: list = field(default_factory=list)  # rounds that wrote
    settled: set = field(default_factory=set)  # rounds of which nothing is undecided
    refused: dict = field(default_factory=dict)  # (round, thread, step) -> error code

    @property
    def undecided(self):
        """Per thread the write that was under way when its round ended."""
        return [
            (turn, thread, 1 + max((s for r, t, s in self.lsns if (r, t) == (turn, thread)),
                                   default=-1))
            for turn in self.begun
            if turn not in self.settled
            for thread in range(THREADS)
        ]  # fmt: skip


def read_ledger(path):
    """Return what a ledger says. Lines are written whole or, at the very end, in part."""
    ledger = Ledger()
    text = Path(path).read_text() if Path(path).exists() else ""
    for line in text.splitlines():
        if not line.endswith("}"):
            continue
        event = json.loads(line)
        kind = event["event"]
        if kind == "acknowledged":
            name = tuple(event["name"])
            if ledger.lsns.setdefault(name, event["lsn"]) != event["lsn"]:
                raise WrongError(
                    f"{name} was acknowledged as {ledger.lsns[name]} and {event['lsn']}"
                )
        elif kind == "begin":
            ledger.begun.append(event["round"])
        elif kind == "settled":
            ledger.settled.add(event["round"])
        elif kind == "refused":
            ledger.refused[tuple(event["name"])] = event["code"]
    return ledger


def append(path, **event):
    """Append a line to a ledger: one write, so that a killed process leaves it whole or absent."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, json.dumps(event).encode() + b"\n")
    finally:
        os.close(file)


# --- checks ----------------------------------------------------------------------------------


def committed(collection):
    """Return {(round, thread, step): LSN} of the writes in a collection, from their receipts."""
    receipts = collection.documents.list("_idempotency")
    return {tuple(map(int, key.split("/"))): value["lsn"] for key, value in receipts.items()}


def replay(names):
    """Return the model after the writes called `names`, which must be whole histories."""
    model, names = Model(), list(names)
    for thread in range(THREADS):
        expected = None
        for name in sorted(name for name in names if name[1] == thread):
            if name != expected and name[2] != 0:
                raise WrongError(f"{name} is there without the write before it")
            model.apply(model.plan(name))
            expected = (name[0], thread, name[2] + 1)
    return model


def compare(collection, model, as_of=None):
    """Compare every row and document of a collection, bit for bit, with a model."""
    found = {record.id: record for record in collection.scan(with_vectors=True, as_of=as_of)}
    wanted = {i: value for rows in model.rows for i, value in rows.items()}
    if found.keys() != wanted.keys():
        missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
        raise WrongError(f"missing: {sorted(missing)[:5]}, never written: {sorted(extra)[:5]}")
    for record_id, (version, metadata) in wanted.items():
        check_record(found[record_id], record_id, version, metadata)
    if collection.documents.list("progress", as_of=as_of) != model.progress:
        raise WrongError(f"documents differ: expected {model.progress}")
    if collection.count(as_of=as_of) != len(wanted):
        raise WrongError(f"count {collection.count(as_of=as_of)}, expected {len(wanted)}")


def check_record(record, record_id, version, metadata):
    """Compare one record bit for bit."""
    if record is None or record.vector.tobytes() != vector_of(record_id, version).tobytes():
        raise WrongError(f"{record_id}: the vector is not that of version {version}")
    if record.metadata != metadata:
        raise WrongError(f"{record_id}: metadata {record.metadata}, expected {metadata}")


def check(collection, ledger, *, complete=True):
    """Check a collection against a ledger; return the model of what is in it.

    complete: whether every acknowledged write must be there (a reader beside a writer may be a
    moment behind).
    """
    inside = committed(collection)
    for name, lsn in ledger.lsns.items():
        if inside.get(name) != lsn and (complete or name in inside):
            raise WrongError(f"acknowledged write {name} at LSN {lsn} is at {inside.get(name)}")
    model = replay(inside)
    compare(collection, model)
    if len(set(inside.values())) != len(inside):
        raise WrongError("two writes have one LSN")
    return model


def check_history(collection, ledger, chance, count):
    """Read some acknowledged writes as of their own LSN."""
    names = sorted(ledger.lsns)
    for name in chance.sample(names, min(count, len(names))):
        thread, lsn = name[1], ledger.lsns[name]
        before = replay(n for n in committed(collection) if n[1] == thread and n < name)
        step = before.plan(name)
        ids = list(step.effect)
        for record_id, record in zip(ids, collection.get(ids, as_of=lsn), strict=True):
            value = step.effect[record_id]
            if value is None and record is not None:
                raise WrongError(f"{record_id} is there as of LSN {lsn}, which deleted it")
            if value is not None:
                check_record(record, record_id, *value)
