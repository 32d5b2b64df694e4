"""Our writer of d-vecDB files against files of real servers and of an independent encoder."""

import json
import math
import struct
import uuid

import numpy as np
import pytest
from tests.compat.legacy_corpus import CASES, CORPUS, expected, needs_corpus, original

from dvecdb.testing import legacy_bytes as lb
from dvecdb.testing.legacy_bytes import Op
from dvecdb.testing.legacy_writer import LegacyServer, config_text

pytestmark = [pytest.mark.compat, needs_corpus]

REAL = [case for case in CASES if "-real-" in case]


def as_parsed(value, stored, encode):
    """Return the value with each double as stored: that parser was off by one place at times."""
    if isinstance(value, dict):
        return {key: as_parsed(item, stored, encode) for key, item in value.items()}
    if isinstance(value, list):
        return [as_parsed(item, stored, encode) for item in value]
    if isinstance(value, float):
        for near in (value, math.nextafter(value, math.inf), math.nextafter(value, -math.inf)):
            if encode({"": near})[8:].removesuffix(b"}").removeprefix(b'{"":') in stored:
                return near
    return value


def in_stored_order(metadata, stored, encode):
    """Return the metadata with its keys in the order they have in `stored`, if any fits."""
    if not metadata:
        return metadata
    metadata = as_parsed(metadata, stored, encode)

    def extend(chosen, rest):
        if not rest:
            return chosen if encode(chosen) in stored else None
        for key in rest:
            longer = {**chosen, key: metadata[key]}
            # Without the count in front, and without what closes a text.
            part = encode(longer)[8:].removesuffix(b"}")
            if part in stored:
                found = extend(longer, [other for other in rest if other != key])
                if found is not None:
                    return found
        return None

    return extend({}, list(metadata))


def stored_records(case):
    """Yield every whole record: path, offset, framing, id, vector bytes, metadata, stored bytes."""
    about = expected(case)
    archive = CORPUS / case / "expected.npz"
    arrays = np.load(archive) if archive.exists() else {}
    for collection in about["collections"]:
        path = CORPUS / case / "data" / collection["path"] / "vectors.bin"
        data = path.read_bytes()
        for record in collection["records"]:
            if record["state"] != "intact":
                continue
            stored = data[record["offset"] : record["offset"] + record["length"]]
            vector = arrays[collection["npz_key"]][record["row"]].tobytes()
            yield record, vector, stored.ljust(record["length"], b"\0")


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("wal-")])
def test_records_are_encoded_to_the_bytes_of_the_real_file(case):
    for record, vector, stored in stored_records(case):
        prefixed = struct.unpack_from("<Q", stored)[0] != 16
        json_text = stored.endswith(b"}") and prefixed
        encode = lb.encode_text if json_text else lb.encode_entries
        metadata = in_stored_order(record["metadata"], stored, encode)
        id_bytes = uuid.UUID(record["id"]).bytes
        body = lb.encode_body(id_bytes, vector, metadata, json_text=json_text)
        assert lb.encode_record(body, prefixed=prefixed) == stored, record["seq"]


@pytest.mark.parametrize("case", [case for case in CASES if (CORPUS / case / "data/wal").exists()])
def test_log_entries_are_encoded_to_the_bytes_of_the_real_log(case):
    log = (CORPUS / case / "data" / "wal").read_bytes()
    if any(word in case for word in ("truncated", "bad-entry", "damaged")):
        return
    again = b"".join(
        lb.encode_entry(entry.version, entry.entry_id, entry.seconds, entry.op, entry.fields)
        for entry in lb.raw_entries(log)
    )
    assert again == log


def read_string(data, at):
    (length,) = struct.unpack_from("<Q", data, at)
    return data[at + 8 : at + 8 + length].decode(), at + 8 + length


class Replayed:
    """A real server's log, called again on ours with the same ids, times and key orders."""

    def __init__(self, case, generation):
        self.log = (CORPUS / case / "data" / "wal").read_bytes()
        self.entries = list(lb.raw_entries(self.log))
        self.case = case
        ids = iter([entry.entry_id for entry in self.entries])
        times = iter([entry.seconds for entry in self.entries])
        self.server = LegacyServer(
            generation, entry_id=lambda: next(ids), seconds=lambda: next(times)
        )
        self.metadata, self.vectors = {}, {}
        about = expected(case)
        arrays = np.load(CORPUS / case / "expected.npz")
        for collection in about["collections"]:
            for record in collection["records"]:
                vector = arrays[collection["npz_key"]][record["row"]].tobytes()
                self.metadata[record["id"], vector] = record["metadata"]

    def row(self, fields, at, dimension):
        """Read id and vector of a body at `at`; its metadata is what was inserted."""
        id = str(uuid.UUID(bytes=fields[at + 8 : at + 24]))
        vector = fields[at + 32 : at + 32 + 4 * dimension]
        metadata = in_stored_order(self.metadata[id, vector], fields[at:], lb.encode_entries)
        body = lb.encode_body(fields[at + 8 : at + 24], vector, metadata, json_text=False)
        return (id, vector, metadata), at + len(body)

    def play(self, restarts):
        """Call all that is in the log; restarts: by number of the entry before which."""
        dimensions = {}
        for number, entry in enumerate(self.entries):
            if number in restarts:
                self.server.restart()
            name, at = read_string(entry.fields, 0)
            if entry.op is Op.CREATE:
                dimension, metric = struct.unpack_from("<QI", entry.fields, at)
                dimensions[name] = dimension
                if name in self.server.open:
                    self.server.restart()
                self.server.create(name, dimension, lb.METRICS[metric])
            elif entry.op is Op.DROP:
                self.server.drop(name)
            elif entry.op is Op.DELETE:
                self.server.delete(name, str(uuid.UUID(bytes=entry.fields[at + 8 : at + 24])))
            elif entry.op is Op.INSERT:
                self.server.insert(name, *self.row(entry.fields, at, dimensions[name])[0])
            else:
                (count,) = struct.unpack_from("<Q", entry.fields, at)
                rows, at = [], at + 8
                for _ in range(count):
                    row, at = self.row(entry.fields, at, dimensions[name])
                    rows.append(row)
                self.server.insert_batch(name, rows)
        return self.server


@pytest.mark.parametrize("case", REAL)
def test_a_whole_directory_of_a_real_server_is_reproduced_to_the_byte(case, tmp_path):
    replayed = Replayed(case, "A0")
    server = replayed.play(restarts=())
    if "zombie" in case:
        server.restart()  # brings the deleted collection back
    server.write_to(tmp_path / "ours")
    real = original(case, tmp_path / "real")
    files = sorted(path.relative_to(real) for path in real.rglob("*") if path.is_file())
    ours = tmp_path / "ours"
    assert files == sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    for path in files:
        assert (ours / path).read_bytes() == (real / path).read_bytes(), path


CONFIGURED = [case for case in CASES if any(CORPUS.glob(f"{case}/data/**/metadata.json"))]


@pytest.mark.parametrize("case", CONFIGURED)
def test_metadata_json_is_the_bytes_of_the_real_file(case):
    for path in (CORPUS / case / "data").rglob("metadata.json"):
        collection = expected(case)["collections"][0]
        dimension = expected(case).get("given_dimension") or collection["dimension"]
        name = collection.get("original_name", collection["name"])
        metric = collection["distance_metric"]
        quantization = json.loads(path.read_bytes()).get("quantization")
        assert config_text(name, dimension, metric, quantization) == path.read_bytes()
