"""Collections as d-vecDB left them on the disk: records with a length, metadata as JSON text."""

import json
import struct
import uuid
import zlib

import numpy as np

ZEROS = 4096  # files are longer than what is in them


def record(number, vector, metadata=None):
    """Return the bytes of one record."""
    body = struct.pack("<Q", 16) + uuid.UUID(int=number).bytes
    body += struct.pack("<Q", len(vector)) + np.asarray(vector, "<f4").tobytes()
    if metadata is None:
        body += b"\0"
    else:
        text = json.dumps(metadata, separators=(",", ":")).encode()
        body += b"\1" + struct.pack("<Q", len(text)) + text
    return struct.pack("<I", len(body)) + body


def rows(count, dimension=2, first=1):
    """Return records of a file, and what is in them by id."""
    made, held = [], {}
    for number in range(first, first + count):
        vector, metadata = [float(number)] * dimension, {"n": number}
        made.append(record(number, vector, metadata))
        held[str(uuid.UUID(int=number))] = (vector, metadata)
    return b"".join(made), held


def orphan(directory, count=3, *, dimension=2, name=None, metric="Euclidean", first=1):
    """Write a collection's directory; return what is in it by id."""
    directory.mkdir(parents=True)
    data, held = rows(count, dimension, first)
    (directory / "vectors.bin").write_bytes(data + bytes(ZEROS))
    (directory / "metadata.json").write_text(json.dumps({
        "name": name or directory.name, "dimension": dimension, "distance_metric": metric,
        "vector_type": "Float32",
        "index_config": {"max_connections": 16, "ef_construction": 200, "ef_search": 50,
                         "max_layer": 16},
    }, indent=2))  # fmt: skip
    return held


def log(name, count=3, *, dimension=2, deleted):
    """Return the log that lies beside: a collection's creation, its records, one's deletion."""
    text = struct.pack("<Q", len(name)) + name.encode()
    operations = [struct.pack("<I", 0) + text + struct.pack("<QII4Q", dimension, 1, 0, 16, 200, 50,
                                                            16)]  # fmt: skip
    for number in range(1, count + 1):
        body = record(number, [float(number)] * dimension, {"n": number})[4:]
        operations.append(struct.pack("<I", 2) + text + body)
    operations.append(struct.pack("<I", 4) + text + struct.pack("<Q", 16)
                      + uuid.UUID(int=deleted).bytes)  # fmt: skip
    found = b""
    for number, operation in enumerate(operations):
        payload = struct.pack("<Q", 16) + uuid.UUID(int=number).bytes
        payload += struct.pack("<QI", 1_700_000_000 + number, zlib.crc32(operation)) + operation
        found += struct.pack("<II", 0xDEADBEEF, len(payload)) + payload
    return found


def large_orphan(directory, count, dimension):
    """Write a collection's directory of many records without metadata; vectors are numbers."""
    record_type = np.dtype([("length", "<u4"), ("sixteen", "<u8"), ("zeros", "V8"), ("id", ">u8"),
                            ("dimension", "<u8"), ("vector", "<f4", dimension),
                            ("tag", "u1")])  # fmt: skip
    records = np.zeros(count, record_type)
    records["length"], records["sixteen"] = record_type.itemsize - 4, 16
    records["dimension"] = dimension
    records["id"] = np.arange(count)
    records["vector"] = np.arange(count)[:, None]
    directory.mkdir(parents=True)
    with (directory / "vectors.bin").open("wb") as file:
        records.tofile(file)
        file.write(bytes(ZEROS))
