"""Check a data directory against its ledger, settle what was undecided, write until killed.

    writer.py DIRECTORY LEDGER ROUND [--steps N] [--lying] [--threads-stop]

--steps N: stop after N writes of each thread and close. --lying: syncs do nothing (the negative
control: acknowledged data must be lost). Exit code 3: the directory contradicts the ledger;
4: a writer was refused, and its ledger line says how.
"""

import argparse
import os
import random
import sys
import threading
import time

import ledger as book

import dvecdb
from dvecdb.errors import DvecdbError
from dvecdb.media.files import OsFiles


class LyingFiles(OsFiles):
    """A disk that acknowledges syncs and does none."""

    def sync(self, file):
        """Do nothing."""

    def sync_directory(self, directory):
        """Do nothing."""


def settle(collection, ledger, model, path):
    """Do the undecided writes again under their keys: each lands once, whether it had or not."""
    inside = book.committed(collection)
    for name in ledger.undecided:
        rows, lsn = collection.stats().rows, collection.stats().last_lsn
        step = book.replay(n for n in inside if n != name).plan(name)
        commit = step.run(collection)
        book.append(path, event="acknowledged", name=name, lsn=commit.lsn)
        if name in inside:
            if commit.lsn != inside[name]:
                raise book.WrongError(f"{name} landed twice: {inside[name]} and {commit.lsn}")
            if (collection.stats().rows, collection.stats().last_lsn) != (rows, lsn):
                raise book.WrongError(f"{name} was repeated and changed something")
        else:
            model.apply(step)
    for turn in ledger.begun:
        if turn not in ledger.settled:
            book.append(path, event="settled", round=turn)


def work(collection, model, turn, thread, steps, path):
    """Write one step after the other, recording each acknowledgement."""
    for number in range(steps):
        step = model.plan((turn, thread, number))
        try:
            commit = step.run(collection)
        except DvecdbError as error:
            book.append(path, event="refused", name=step.name, code=error.code)
            return
        book.append(path, event="acknowledged", name=step.name, lsn=commit.lsn)
        model.apply(step)


def check(database, ledger, path):
    """Return the collection and its model after all checks."""
    if database.collections() == [] and not ledger.lsns:
        return database.create_collection(book.COLLECTION, dimension=book.DIMENSION), book.Model()
    try:
        collection = database.collection(book.COLLECTION)
    except DvecdbError as error:
        raise book.WrongError(str(error)) from error
    model = book.check(collection, ledger)
    settle(collection, ledger, model, path)
    book.compare(collection, model)
    chance = random.Random(len(ledger.lsns))
    book.check_history(collection, ledger, chance, 5)
    damage = [f for f in database.findings() if f.code not in EXPECTED_FINDINGS]
    if damage:
        raise book.WrongError(f"findings: {damage}")
    return collection, model


# A crash may leave these, and they are right: a cut that was never acknowledged, a segment that
# was written for a bulk commit that did not happen, records of a writer that had lost its right.
EXPECTED_FINDINGS = {
    "torn",
    "possibly-acknowledged",
    "orphan-segment",
    "fenced-records",
    "manifest-from-log",
}


def main():
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("ledger")
    parser.add_argument("round", type=int)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--lying", action="store_true")
    parser.add_argument("--threads", type=int, default=book.THREADS)
    arguments = parser.parse_args()
    path = arguments.ledger
    files = LyingFiles() if arguments.lying else OsFiles()
    settings = dvecdb.Settings(**book.SETTINGS)
    ledger = book.read_ledger(path)
    with dvecdb.Database(arguments.directory, settings=settings, files=files) as database:
        collection, model = check(database, ledger, path)
        book.append(path, event="begin", round=arguments.round, time=time.time(), pid=os.getpid())
        threads = [
            threading.Thread(
                target=work,
                args=(collection, model, arguments.round, thread, arguments.steps, path),
            )
            for thread in range(arguments.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = collection.stats()
    print(f"{stats}")
    refused = book.read_ledger(path).refused
    return 4 if any(name[0] == arguments.round for name in refused) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except book.WrongError as wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
        sys.exit(3)
