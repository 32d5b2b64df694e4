"""Open a directory read-only again and again beside its writer, and check each state.

    reader.py DIRECTORY LEDGER SECONDS

A state must be whole histories of every thread, equal bit for bit to what those writes make, and
hold everything an earlier look held. Acknowledged writes may be missing only if they are younger
than a moment: what is not known to be synced is not shown.
"""

import sys
import time

import ledger as book

import dvecdb


def look(path, ledger, before):
    """Check one state; return the writes in it."""
    with dvecdb.open(path, read_only=True) as database:
        if not database.collections():
            if database.findings() or before:
                raise book.WrongError(f"nothing to see: {database.findings()}")
            return before
        collection = database.collection(book.COLLECTION)
        book.check(collection, ledger, complete=False)
        inside = book.committed(collection)
        if not before.keys() <= inside.keys():
            raise book.WrongError(f"gone: {sorted(before.keys() - inside.keys())[:5]}")
        if any(inside[name] != lsn for name, lsn in before.items()):
            raise book.WrongError("a write has another LSN than before")
        if database.findings():
            raise book.WrongError(f"findings: {database.findings()}")
        return inside


def main(path, ledger_path, seconds):
    """Look until the time is over."""
    until, looks, inside = time.monotonic() + seconds, 0, {}
    while time.monotonic() < until:
        ledger = book.read_ledger(ledger_path)
        inside = look(path, ledger, inside)
        looks += 1
        # Some of what was acknowledged before this look must be in it: all but the last few.
        missing = sorted(ledger.lsns.keys() - inside.keys(), key=ledger.lsns.get)
        if missing and len(missing) > len(ledger.lsns) // 2 + 10:
            raise book.WrongError(f"{len(missing)} acknowledged writes are not shown")
    print(f"{looks} looks, {len(inside)} writes at the end", file=sys.stderr)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    except book.WrongError as wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
        sys.exit(3)
