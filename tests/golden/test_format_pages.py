"""The pages in docs/format/ say what the docstrings and the structures in the code say."""

import re
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from dvecdb.api.audit import AuditEntry
from dvecdb.engine.lock import LockContent
from dvecdb.formats import (
    batch,
    framing,
    index_file,
    lookup_file,
    manifest_file,
    segment_file,
    server_file,
    wal_record,
)

PAGES = Path(__file__).parents[2] / "docs" / "format"
TEXT = "\n".join(path.read_text() for path in sorted(PAGES.glob("*.md")))
MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (batch, framing, index_file, lookup_file, segment_file, wal_record)
}
LAYOUTS = {  # docstring table -> the structure that packs it, and the size of the whole
    ("wal_record", 0): (wal_record._FILE_HEADER, wal_record.FILE_HEADER_SIZE),
    ("wal_record", 1): (wal_record._HEAD, wal_record.HEAD_SIZE),
    ("segment_file", 0): (segment_file._HEAD, segment_file.HEAD_SIZE),
    ("lookup_file", 0): (lookup_file._HEAD, None),
    ("index_file", 0): (index_file._HEAD, None),
    ("framing", 0): (framing._SECTIONS_HEAD, None),
}
COLUMNS = (0, 8, 14, 31)  # of an offset table in a docstring


def page_tables(kind):
    """Return {argument: rows of cells} of the tables marked `<!-- kind: argument -->`."""
    tables = {}
    for argument, table in re.findall(rf"<!-- {kind}: (.+?) -->\n\n((?:\|.*\n)+)", TEXT):
        rows = [
            [cell.strip() for cell in line.strip("|\n").split("|")] for line in table.split("\n")
        ]
        tables[argument] = [row for row in rows[2:] if len(row) > 1]
    return tables


def docstring_tables(module):
    """Return the offset tables of a module's docstring: rows of offset, size, field."""
    tables, rows, start = [], None, 0
    for line in module.__doc__.split("\n"):
        if line.split()[:3] == ["offset", "size", "field"]:
            rows, start = [], line.index("offset")
            tables.append(rows)
            continue
        cells = [line[start + a : start + b].strip() for a, b in pairwise(COLUMNS)]
        if rows is None or not re.fullmatch(r"\d+|\.\.", cells[0]):
            rows = None
            continue
        rows.append((cells[0], cells[1], re.split(r"\s{2,}", cells[2])[0]))
    return tables


def docstring_sections(module):
    _, _, text = module.__doc__.partition("Sections of the control data")
    return re.findall(r"^    (\d+)\s+(\S+(?: \S+)*)  ", text, re.MULTILINE)


def layout(packed: struct.Struct):
    """Return (offset, size) of every field of a structure, reserved ones included."""
    fields, offset = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", packed.format):
        sizes = [int(count)] if code in "sx" else [struct.calcsize("<" + code)] * int(count or 1)
        for size in sizes:
            fields.append((str(offset), str(size)))
            offset += size
    assert offset == packed.size
    return fields


@pytest.mark.parametrize("table", LAYOUTS, ids=str)
def test_offset_tables_of_pages_docstrings_and_structures_agree(table):
    module, number = table
    stated = docstring_tables(MODULES[module])[number]
    packed, size = LAYOUTS[table]
    fields = layout(packed)
    assert [row[:2] for row in stated[: len(fields)]] == fields
    if size is not None:  # the checksum follows what is packed
        assert stated[len(fields) :] == [(str(size - 8), "8", "checksum")]
    page = page_tables("table")[f"{module} {number}"]
    assert [tuple(row[:3]) for row in page] == stated


def test_every_offset_table_has_a_page():
    known = {
        f"{name} {number}"
        for name, module in MODULES.items()
        for number in range(len(docstring_tables(module)))
    }
    assert page_tables("table").keys() == known
    assert known == {f"{name} {number}" for name, number in LAYOUTS}


@pytest.mark.parametrize("name", ["batch", "segment_file"])
def test_section_tables_of_pages_and_docstrings_agree(name):
    stated = docstring_sections(MODULES[name])
    assert [int(tag) for tag, _ in stated] == list(range(1, len(stated) + 1))
    assert [tuple(row[:2]) for row in page_tables("sections")[name]] == stated


def test_the_section_numbers_of_segments_are_those_of_the_code():
    stated = {name: int(tag) for tag, name in docstring_sections(segment_file)}
    assert (stated["descriptor"], stated["ends: rows"]) == (
        segment_file.DESCRIPTOR,
        segment_file.ENDS_ROWS,
    )
    assert (stated["vector blocks"], stated["lost metadata"]) == (
        segment_file.VECTOR_BLOCKS,
        segment_file.LOST_METADATA,
    )


STRUCTS = [
    manifest_file.Manifest,
    manifest_file.SegmentEntry,
    manifest_file.SchemaEntry,
    manifest_file.CollectionFile,
    manifest_file.DeletionFile,
    manifest_file.BackupFile,
    manifest_file.VerificationFile,
    LockContent,
    index_file.IndexHeader,
    server_file.KeyFile,
    server_file.RevocationFile,
    server_file.TaskStartFile,
    server_file.TaskEndFile,
    server_file.ImportReportFile,
    server_file.AuditHeader,
    AuditEntry,
]


@pytest.mark.parametrize("struct_type", STRUCTS, ids=lambda item: item.__name__)
def test_field_tables_of_pages_and_structs_agree(struct_type):
    rows = page_tables("fields")[struct_type.__name__]
    assert [row[0].strip("`") for row in rows] == list(struct_type.__struct_fields__)


def test_the_pages_that_the_layout_names_exist():
    text = (PAGES / "README.md").read_text()
    for name in set(re.findall(r"\b(\w+\.md)\b", text)) - {"CONTRIBUTING.md"}:
        assert (PAGES / name).exists(), name
