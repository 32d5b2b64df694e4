"""`python -m dvecdb`."""

from __future__ import annotations

from dvecdb.cli.main import main

if __name__ == "__main__":
    main()
