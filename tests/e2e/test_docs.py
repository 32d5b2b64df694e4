"""What the documents show is what happens.

Every ```python block of a page runs, in order, with the names of the blocks before it. Every
`$ dvecdb ...` line of a ```console block runs, and its exit code is 0; where output is shown it has
to be that output: `...` stands for any text within a line, and alone for any lines.

A block after a line `<!-- fragment -->` is an excerpt and does not run. Pages in docs/format/ find
the golden data directory as `data`; others begin in an empty directory.
"""

import re
import shlex
from pathlib import Path

import pytest
from tests.golden import trees

from dvecdb.cli import main as cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FRAGMENT = "<!-- fragment -->"


def blocks(page):
    """Return (language, line number, text) of the blocks of a page that run."""
    text = page.read_text()
    return [
        (match[1], text.count("\n", 0, match.start()) + 2, match[2])
        for match in BLOCK.finditer(text)
        if not text[: match.start()].rstrip().endswith(FRAGMENT)
    ]


RUNNABLE = [page for page in PAGES if {kind for kind, *_ in blocks(page)} & {"python", "console"}]


def commands(text):
    """Return (command, output shown) of a console block."""
    found = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def shows(expected, output):
    """Return whether `output` is what `expected` shows of it."""
    lines = []
    for line in expected:
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*")
        else:
            lines.append(re.escape(line).replace(re.escape("..."), ".*") + r"\n")
    return re.fullmatch("".join(lines), output) is not None


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page.parent.name == "format":
        trees.copy_of_golden(tmp_path / "data")
    names = {"__name__": "page"}
    for kind, line, text in blocks(page):
        where = f"{page.relative_to(ROOT)}:{line}"
        if kind == "python":
            code = compile("\n" * (line - 1) + text, str(page), "exec")
            exec(code, names)
            capsys.readouterr()
        elif kind == "console":
            for command, expected in commands(text):
                program, *arguments = shlex.split(command)
                assert program == "dvecdb", f"{where}: {command}"
                exit_code = cli.run(arguments)
                output, errors = capsys.readouterr()
                assert (exit_code, errors) == (0, ""), f"{where}: {command}"
                assert not expected or shows(expected, output), f"{where}: {command}\n{output}"


def test_the_front_page_and_the_format_pages_are_among_them():
    names = {page.relative_to(ROOT).as_posix() for page in RUNNABLE}
    assert {"README.md", "docs/format/README.md", "docs/format/wal.md"} <= names


def test_dots_stand_for_text_and_for_lines():
    assert shows(["a ... z", "...", "end"], "a b z\nmore\nand more\nend\n")
    assert shows(["...", "end"], "end\n")
    assert not shows(["a", "end"], "a\nb\nend\n")
    assert not shows(["a.c"], "abc\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_the_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
