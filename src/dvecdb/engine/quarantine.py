"""Damaged or doubtful bytes set aside: kept for study, never served, named at every open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dvecdb.engine.storage import read_file, write_file
from dvecdb.formats.framing import FormatError
from dvecdb.formats.manifest_file import open_json, seal_json
from dvecdb.records import Finding

if TYPE_CHECKING:
    from dvecdb.engine.replay import Cut
    from dvecdb.media.files import Dir, Files


class _Kept(msgspec.Struct, frozen=True):
    """The finding in a description, as it is stored beside the bytes."""

    code: str
    where: str
    message: str
    collection: str | None = None
    lost: str | None = None
    details: dict[str, object] = {}  # msgspec copies it


def tail_finding(cut: Cut) -> Finding:
    """Return the finding that names the cut end of a log."""
    return Finding(
        code=cut.kind,
        collection=None,
        where=f"wal/{cut.log} from byte {cut.offset}",
        message=(
            f"wal/{cut.log}: {len(cut.data)} bytes after commit {cut.after_lsn} were cut off "
            f"({cut.kind.replace('-', ' ')}); a writing open keeps them in "
            f"quarantine/{_stem(cut)}.bin"
        ),
        lost=f"at most commits after {cut.after_lsn} in flight at the crash",
        details={"after_lsn": cut.after_lsn, "size_bytes": len(cut.data)},
    )


def _stem(cut: Cut) -> str:
    return f"{cut.log}-{cut.offset}"


def quarantine_tail(files: Files, directory: Dir, cut: Cut) -> Finding:
    """Keep the cut end of a log and return the finding that names it. Durable on return.

    What a recovery before, itself cut short, has kept of it stays as it is. Raises `OSError`.
    """
    finding, stem = tail_finding(cut), _stem(cut)
    value = {"format_version": 1, "required_features": 0, **msgspec.to_builtins(finding)}
    for name, data in ((f"{stem}.bin", cut.data), (f"{stem}.json", seal_json(value))):
        if files.stat(directory, name) is None:
            write_file(files, directory, name, [data])
    files.sync_directory(directory)
    return finding


def known_findings(files: Files, directory: Dir) -> list[Finding]:
    """Return the findings of what lies in quarantine. Damaged descriptions are findings too."""
    findings: list[Finding] = []
    for name in files.list_names(directory):
        if not name.endswith(".json") or name.startswith("."):
            continue
        try:
            value, _ = open_json(read_file(files, directory, name))
            kept = msgspec.convert(value, _Kept)
            findings.append(Finding(**msgspec.structs.asdict(kept)))
        except (FormatError, OSError, msgspec.MsgspecError) as error:
            where = f"quarantine/{name}"
            findings.append(Finding("quarantine-damaged", None, where, f"{where}: {error}"))
    return findings
