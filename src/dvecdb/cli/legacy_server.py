"""`vectordb-server`: the server under its old name, for scripts and units that call it so."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dvecdb import __version__
from dvecdb.cli.exit_codes import USAGE
from dvecdb.cli.serve import read_text, run_server
from dvecdb.errors import DvecdbError
from dvecdb.node.legacy_server import from_flags, from_yaml, parser

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Serve as the old flags say; return the exit code."""
    given = parser(__version__).parse_args(arguments)
    try:
        if given.config is None:
            loaded = from_flags(given, os.environ)
        else:
            path = Path(given.config)
            loaded, unknown = from_yaml(read_text(path), given.config, os.environ)
            for key in unknown:
                sys.stderr.write(f"warning: {given.config}: {key!r} means nothing here\n")
        return run_server(loaded.settings)
    except DvecdbError as error:
        sys.stderr.write(f"error: {error.code}: {' '.join(error.message.split())}\n")
    except OSError as error:
        sys.stderr.write(f"error: file-unreadable: {error.filename}: {error.strerror}\n")
    return USAGE


def main() -> None:
    """Run with this process's arguments."""
    sys.exit(run(sys.argv[1:]))
