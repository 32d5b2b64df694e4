"""Working copies of the golden data directory, and edits of formats that keep them consistent."""

import shutil
import struct
from pathlib import Path

from tests.golden import make

from dvecdb.formats import wal_record
from dvecdb.formats.framing import checksum, padded
from dvecdb.formats.names import COLLECTION_DIRECTORIES

HEAD = wal_record.HEAD_SIZE


def copy_of_golden(target: Path) -> Path:
    """Return a writable copy. Empty directories are made again: git does not keep them."""
    shutil.copytree(make.DATA_DIRECTORY, target)
    for collection in (target / "collections").iterdir():
        for name in COLLECTION_DIRECTORIES:
            (collection / name).mkdir(exist_ok=True)
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def tree_bytes(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def log_regions(log: bytes) -> list[tuple[str, int, int, int]]:
    """Return (part, start, end, number of the record) of everything in a log."""
    found = wal_record.scan(log)
    regions = [("header", 0, wal_record.FILE_HEADER_SIZE, -1)]
    for number, record in enumerate(found.records):
        head, at = record.head, record.offset
        control, data = head.control_size, head.data_size
        position = at
        for part, size in (
            ("head", HEAD),
            ("control", control),
            ("padding", padded(control) - control),
            ("data", data),
            ("padding", padded(data) - data),
            ("control", control),
            ("padding", padded(control) - control),
            ("tail", HEAD),
        ):
            regions.append((part, position, position + size, number))
            position += size
        assert position == record.end
    regions.append(("zeros", found.used_bytes, len(log), -1))
    return [region for region in regions if region[2] > region[1]]


def rewrite_log(log: bytes, edit) -> bytes:
    """Return `log` with `edit(head: bytearray)` applied to every record, chained again."""
    result = bytearray(log)
    previous = None
    for record in wal_record.scan(log).records:
        head = bytearray(log[record.offset : record.offset + HEAD - 8])
        if previous is not None:
            struct.pack_into("<Q", head, 40, previous)
        edit(head)
        previous = checksum(bytes(head))
        end = record.offset + record.head.size
        result[record.offset : record.offset + HEAD] = head + struct.pack("<Q", previous)
        tail = b"dvWT" + bytes(head[4:])
        result[end - HEAD : end] = tail + struct.pack("<Q", checksum(tail))
    return bytes(result)


def reseal(head: bytes, offset: int, value: bytes) -> bytes:
    """Return a head that ends in its checksum, with `value` at `offset`."""
    body = bytearray(head[:-8])
    body[offset : offset + len(value)] = value
    return bytes(body) + struct.pack("<Q", checksum(bytes(body)))
