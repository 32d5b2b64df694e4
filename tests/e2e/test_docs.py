"""What the documents show is what happens.

Every ```python block of a page runs, in order, with the names of the blocks before it, and also if
it is in a comment. Every `$ dvecdb ...` line of a ```console block runs, and its exit code is 0, or
what a comment behind it says (`# exit code 1`). Where output is shown it has to be that output,
errors included: `...` stands for any text within a line, and alone for any lines. A name with a
stamp, `docs_20261124_104512`, stands for the name in its place when it is first shown, and for that
one from then on.

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
STAMPED = re.compile(r"\b[A-Za-z0-9-]+_\d{8}_\d{6}\b")
EXIT_CODE = re.compile(r" +# exit code (\d+)$")


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


def shows(expected, output, names=None):
    """Return whether `output` is what `expected` shows of it.

    names: the real ones of stamped names in the page; those that are first shown here are added.
    """
    known = {} if names is None else names
    lines = []
    for line in expected:
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*")
        else:
            lines.append(_line(line, known) + r"\n")
    pattern, new = "".join(lines), []
    for name in dict.fromkeys(STAMPED.findall("\n".join(expected))):
        if name not in known:
            group = f"(?P<name{len(new)}>{STAMPED.pattern})"
            pattern = pattern.replace(re.escape(name), group, 1)
            pattern = pattern.replace(re.escape(name), f"(?P=name{len(new)})")
            new.append(name)
    match = re.fullmatch(pattern, output)
    if match is None:
        return False
    known |= {name: match[f"name{number}"] for number, name in enumerate(new)}
    return True


def _line(line, known):
    return re.escape(real(line, known)).replace(re.escape("..."), ".*")


def real(text, names):
    """Return a line of a page with the names that there really are."""
    return STAMPED.sub(lambda match: names.get(match[0], match[0]), text)


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if page.parent.name == "format":
        trees.copy_of_golden(tmp_path / "data")
    scope, names = {"__name__": "page"}, {}
    for kind, line, text in blocks(page):
        where = f"{page.relative_to(ROOT)}:{line}"
        if kind == "python":
            code = compile("\n" * (line - 1) + text, str(page), "exec")
            exec(code, scope)
            capsys.readouterr()
        elif kind == "console":
            for command, expected in commands(text):
                code = EXIT_CODE.search(command)
                program, *arguments = shlex.split(real(EXIT_CODE.sub("", command), names))
                assert program == "dvecdb", f"{where}: {command}"
                exit_code = cli.run(arguments)
                output, errors = capsys.readouterr()
                assert exit_code == (int(code[1]) if code else 0), f"{where}: {command}\n{errors}"
                assert code or not errors, f"{where}: {command}\n{errors}"
                output += errors
                fits = not expected or shows(expected, output, names)
                assert fits, f"{where}: {command}\n{output}"


def test_the_front_page_and_the_format_pages_are_among_them():
    names = {page.relative_to(ROOT).as_posix() for page in RUNNABLE}
    assert {"README.md", "docs/format/README.md", "docs/format/wal.md"} <= names


def test_dots_stand_for_text_and_for_lines():
    assert shows(["a ... z", "...", "end"], "a b z\nmore\nand more\nend\n")
    assert shows(["...", "end"], "end\n")
    assert not shows(["a", "end"], "a\nb\nend\n")
    assert not shows(["a.c"], "abc\n")


def test_a_stamped_name_is_bound_where_it_is_first_shown():
    names = {}
    assert shows(["a docs_20260101_000000", "docs_20260101_000000 ..."],
                 "a docs_20991231_235959\ndocs_20991231_235959 z\n", names)  # fmt: skip
    assert names == {"docs_20260101_000000": "docs_20991231_235959"}
    assert real("rm docs_20260101_000000", names) == "rm docs_20991231_235959"
    assert not shows(["docs_20260101_000000"], "docs_20991231_235958\n", names)
    assert not shows(["docs_20260202_000000 docs_20260202_000000"],
                     "docs_20991231_235958 docs_20991231_235957\n", names)  # fmt: skip
    assert names.keys() == {"docs_20260101_000000"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_the_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []
