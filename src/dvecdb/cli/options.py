"""The options that commands share, and what they say about themselves in the help."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

Url = Annotated[
    str | None,
    typer.Option("--url", help="The server, like http://host:3030. Or DVECDB_URL."),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", help="API key; better in DVECDB_API_KEY, where no ps shows it."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The data directory, without a server. Or DVECDB_DATA_DIR."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Collection = Annotated[
    str, typer.Argument(metavar="COLLECTION", help="Its name.", show_default=False)
]
Ids = Annotated[
    list[str] | None, typer.Argument(metavar="ID...", help="Ids of records.", show_default=False)
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of", metavar="LSN|TIME", help="As it was: an LSN, or a time like 2026-11-24T12:00Z."
    ),
]
Condition = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="KEY=VALUE|JSON",
        help="Only records with this metadata; VALUE is JSON, or else text. May be repeated. "
        "Or a whole filter as JSON.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Actor = Annotated[
    str | None, typer.Option("--actor", help="Who does it, for the history. Default: the key.")
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why, for the history.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, do nothing.")]
IdOptions = Annotated[
    list[str] | None,
    typer.Option("--id", metavar="ID", help="Only the record of this id. May be repeated."),
]
Confirm = Annotated[bool, typer.Option("--confirm", help="Even if that is most of the collection.")]
NewName = Annotated[
    str | None, typer.Option("--new-name", metavar="NAME", help="Default: the name it had.")
]
Verify = Annotated[
    Literal["quick", "full"], typer.Option("--verify", help="full: read every byte of it first.")
]
AllowDamage = Annotated[
    bool, typer.Option("--allow-damage", help="Bring back what is whole of a damaged one.")
]
ShownRecords = Annotated[
    int,
    typer.Option("--records", "-n", min=0, max=10_000, metavar="N", help="Show the first N."),
]
Tag = Annotated[str, typer.Argument(metavar="TAG", help="Its name.", show_default=False)]
Metric = Annotated[
    str, typer.Option("--metric", help="cosine, euclidean, manhattan or dot_product.")
]
VectorType = Annotated[str, typer.Option("--vector-type", help="float32, float16 or int8.")]


class Format(StrEnum):
    """What a file of records may be."""

    JSONL = "jsonl"
    CSV = "csv"
    NPY = "npy"
    NPZ = "npz"
    PARQUET = "parquet"


class Mode(StrEnum):
    """What insert does about ids that exist."""

    UPSERT = "upsert"
    INSERT = "insert"


class Others(StrEnum):
    """What to do with fields or columns beside id, vector and metadata."""

    REFUSE = "refuse"
    IGNORE = "ignore"
    METADATA = "metadata"


FileFormat = Annotated[
    Format | None, typer.Option("--format", help="Default: by the file's name; jsonl for -.")
]
IdsFile = Annotated[
    Path | None, typer.Option("--ids", metavar="FILE", help="Ids beside a .npy file.")
]
SkipRows = Annotated[
    int,
    typer.Option(
        "--skip-rows", min=0, metavar="N", help="Leave out the first N rows: go on there."
    ),
]
BatchRows = Annotated[
    int,
    typer.Option(
        "--batch-rows", min=1, max=1_000_000, metavar="N", help="Rows of a batch at most."
    ),
]
BatchMib = Annotated[
    int,
    typer.Option("--batch-mib", min=1, max=1024, metavar="MIB", help="Size of a batch, about."),
]
VectorField = Annotated[
    str,
    typer.Option("--vector-field", help="Name of the vector, like embedding, data or values."),
]
OtherFields = Annotated[
    Others,
    typer.Option("--others", help="Other fields and columns: an error, left out, or metadata."),
]
