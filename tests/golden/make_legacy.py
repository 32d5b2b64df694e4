"""Tiny d-vecDB directories of every kind, and what must come back from each.

They stay as they are: a reader is held to bytes on people's disks. To add one, name its scene here
and run `python -m tests.golden.make_legacy`, which writes only what is not there.
"""

import json
from pathlib import Path

from dvecdb.testing.legacy_scenes import NAME, SCENES

DIRECTORY = Path(__file__).parent / "legacy"
SEED = 2025
DIMENSION = 4
ZEROS = 40
CASES = (
    "a0-plain",
    "a0-updated",
    "a0-head-overwritten",
    "a0-zombie",
    "a1-cut-in-metadata",
    "a1-flipped-marker",
    "a3-deleted",
    "a4-then-c0-offset-20",
    "b0-plain",
    "b0-replayed-over-head",
    "b0-flipped-prefix-high",
    "b1-hole",
    "b1-then-c0-mixed",
    "c0-plain",
    "c0-replayed-behind",
    "c0-flipped-tag",
    "c1-snapshot",
    "log-v1-cut",
    "log-v1-then-v2",
    "log-v2-magic-flipped",
)


def scene(case):
    return SCENES[case](SEED, DIMENSION)


def version(content):
    """Return one acceptable version of a row; stored: what damaged metadata looks like."""
    fields = {"vector": content.vector.hex(), "metadata": content.metadata}
    if content.quality != "exact":
        fields["quality"] = content.quality
    if content.quality == "damaged":
        fields |= {"stored": content.stored.hex(), "json_text": content.json_text}
    return fields


def expectation(case):
    """Return the truth about a case as JSON: with the log, as an import reads it."""
    made = scene(case)
    truth = made.truth(use_log=made.path == NAME)
    rows = {
        id: [version(content) for content in contents] for id, contents in truth.required.items()
    }
    return {
        "path": made.path,
        "dimension": truth.dimension,
        "metric": truth.metric,
        "rows": rows,
        "deleted": sorted(truth.deleted),
        "torn": [[span.file, span.start, span.end] for span in truth.torn],
    }


def main():
    for case in CASES:
        target = DIRECTORY / case
        if not target.exists():
            scene(case).write_to(target / "data", zeros=ZEROS)
            text = json.dumps(expectation(case), ensure_ascii=False)
            # A row a line.
            text = text.replace('}], "', '}],\n"').replace('"rows": {', '"rows": {\n')
            (target / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
