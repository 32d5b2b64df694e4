"""Files of real d-vecDB servers with what was written to them, kept beside the checkout.

Where they are says DVECDB_LEGACY_CORPUS; without it, the directory `legacy-corpus` in `shared`
next to the checkout. Their README says what the fields mean.
"""

import json
import os
import shutil
from functools import cache
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[3] / "shared" / "legacy-corpus"
CORPUS = Path(os.environ.get("DVECDB_LEGACY_CORPUS") or _BESIDE)
CASES = sorted(path.parent.name for path in CORPUS.glob("*/expected.json"))

needs_corpus = pytest.mark.skipif(
    not CASES,
    reason=f"NO LEGACY CORPUS at {CORPUS}: set DVECDB_LEGACY_CORPUS, or nothing is compared with "
    "the files of real servers",
)


@cache
def expected(case: str) -> dict:
    return json.loads((CORPUS / case / "expected.json").read_text())


def original(case: str, target: Path) -> Path:
    """Copy a case's data directory with its files at their original size."""
    shutil.copytree(CORPUS / case / "data", target)
    target.chmod(0o755)
    for name, about in expected(case)["files"].items():
        path = target / name
        if not about["stored"]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)
            path.touch()
        path.chmod(0o644)
        os.truncate(path, about["original_size"])
    return target
