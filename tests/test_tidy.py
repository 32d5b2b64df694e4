"""House style as a test: each rule names what broke it, and each exception says why it is one."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dvecdb"
MODULES = sorted(SOURCE.rglob("*.py"))

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
TRACKED_BYTES_MAX = 200_000

# Words that say nothing about what a thing is.
BANNED_NAMES = {"base", "common", "handler", "helper", "helpers"}
BANNED_NAMES |= {"impl", "manager", "misc", "util", "utils"}
ROOT_MARKDOWN = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
GENERATED = {"uv.lock"}

# Only these parts may touch files themselves; everything else goes through media/files.py.
# media/memory.py maps memory and media/processes.py reads /proc: no files. Sources and models are
# other people's files, and only read.
FILE_PARTS = {"media/files.py", "media/memory.py", "cli", "testing"}
FILE_PARTS |= {"embedding/local", "embedding/sources", "media/processes.py"}
FILE_MODULES = {"fcntl", "glob", "mmap", "shutil", "tempfile"}
FILE_METHODS = {
    "fromfile",
    "hardlink_to",
    "memmap",
    "open_memmap",
    "read_bytes",
    "read_text",
    "save",
    "savez",
    "symlink_to",
    "tofile",
    "touch",
    "write_bytes",
    "write_text",
}
# What is left of `os` when files are taken away.
OS_NAMES = {
    "PathLike",
    "cpu_count",
    "environ",
    "fspath",
    "getpid",
    "path",
    "register_at_fork",
    "strerror",
}

CLOCK_PARTS = {"clock.py", "testing"}
CLOCK_METHODS = {"now", "today", "utcnow"}


def part(module: Path) -> str:
    return module.relative_to(SOURCE).as_posix()


def belongs(module: Path, parts: set[str]) -> bool:
    name = part(module)
    return name in parts or any(name.startswith(f"{one}/") for one in parts)


def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def violations(
    rule: Callable[[ast.Module], Iterator[tuple[int, str]]], skip: set[str]
) -> list[str]:
    return [
        f"{part(module)}:{line} {what}"
        for module in MODULES
        if not belongs(module, skip)
        for line, what in rule(tree(module))
    ]


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    # A checkout may belong to another user than the one who tests it.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def imported(node: ast.AST) -> list[str]:
    """Top-level names of the modules an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        return [node.module.split(".")[0]]
    return []


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


# --- size and names --------------------------------------------------------------------------


def test_no_module_is_longer_than_the_limit():
    sizes = {part(module): len(module.read_text().splitlines()) for module in MODULES}
    assert {name: size for name, size in sizes.items() if size > MODULE_LINES_MAX} == {}


def test_no_function_is_longer_than_the_limit():
    def rule(module):
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = node.end_lineno - node.lineno + 1
                if size > FUNCTION_LINES_MAX:
                    yield node.lineno, f"{node.name} has {size} lines"

    assert violations(rule, skip=set()) == []


def test_modules_and_classes_are_named_for_what_they_are():
    names = [(part(module), word) for module in MODULES for word in module.stem.split("_")]
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef):
                words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", node.name)
                names += [(f"{part(module)}:{node.lineno} {node.name}", word) for word in words]
    assert [where for where, word in names if word.lower() in BANNED_NAMES] == []


# --- nothing left behind ---------------------------------------------------------------------


def test_nothing_is_left_for_later_and_no_check_is_silenced_whole():
    pattern = re.compile(
        r"\b(?:TODO|FIXME|XXX)\b"
        r"|#\s*type:\s*ignore(?!\[)"  # an ignore names its error
        r"|#\s*noqa(?!:)"
    )
    code = [
        *MODULES,
        *(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
    found = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in code
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_no_big_file_is_tracked():
    sizes = {name: (ROOT / name).stat().st_size for name in tracked() if name not in GENERATED}
    assert {name: size for name, size in sizes.items() if size > TRACKED_BYTES_MAX} == {}


def test_the_root_holds_only_the_documents_everybody_looks_for():
    at_root = {name for name in tracked() if "/" not in name and name.lower().endswith(".md")}
    assert at_root <= ROOT_MARKDOWN


# --- seams -----------------------------------------------------------------------------------


def test_files_are_touched_only_through_the_table_of_file_calls():
    def rule(module):
        own = {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(module):
            for name in imported(node):
                if name in FILE_MODULES:
                    yield node.lineno, f"import of {name}"
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                for alias in node.names:
                    if alias.name not in OS_NAMES:
                        yield node.lineno, f"os.{alias.name}"
            if isinstance(node, ast.Attribute):
                if dotted(node.value) in {"os", "os.path"} and node.attr not in OS_NAMES:
                    yield node.lineno, dotted(node)
                if node.attr in FILE_METHODS or dotted(node) == "io.open":
                    yield node.lineno, dotted(node) or f".{node.attr}"
            if isinstance(node, ast.Call) and dotted(node.func) == "open" and "open" not in own:
                yield node.lineno, "open()"

    assert violations(rule, FILE_PARTS) == []


def test_time_comes_from_the_clock_and_nothing_is_random():
    def rule(module):
        for node in ast.walk(module):
            for name in imported(node):
                if name in {"random", "time"}:
                    yield node.lineno, f"import of {name}"
            reads_clock = isinstance(node, ast.Attribute) and node.attr in CLOCK_METHODS
            if reads_clock and dotted(node.value).endswith(("date", "datetime")):
                yield node.lineno, dotted(node)

    assert violations(rule, CLOCK_PARTS) == []


def test_python_without_assertions_is_refused():
    run = subprocess.run(
        [sys.executable, "-O", "-c", "import dvecdb"], check=False, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert "without -O" in run.stderr


# --- documents -------------------------------------------------------------------------------


def test_every_test_that_a_guarantee_names_exists():
    page = ROOT / "docs" / "guarantees.md"
    text = page.read_text() if page.exists() else ""
    known: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("*.py"):
        known[path.relative_to(ROOT).as_posix()] = {
            node.name
            for node in ast.walk(tree(path))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
    missing = []
    for path, names in re.findall(r"\b(tests/[\w/]+\.py)((?:::\w+)*)", text):
        if path not in known or not set(names.split("::")[1:]) <= known[path]:
            missing.append(path + names)
    everything = set().union(*known.values())
    missing += [name for name in re.findall(r"`(test_\w+)`", text) if name not in everything]
    assert missing == []


def test_decisions_are_numbered_without_a_gap():
    paths = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    expected = [f"{number:04d}" for number in range(1, len(paths) + 1)]
    assert [path.name[:4] for path in paths] == expected
