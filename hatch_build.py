"""Compiles the C of the package, into one library, when it is built.

The compiler comes as a wheel. Without one for this machine, or with DVECDB_PURE=1, the package is
built without: it does the same, more slowly.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = Path("src/dvecdb")
LIBRARY = PACKAGE / "search/_compiled.so"
# Sums have one order and one rounding: nothing may be fused or reordered.
FLAGS = ["-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", "-s"]


def compilers() -> list[list[str]]:
    """Return the commands to try, in order."""
    bundled = [[sys.executable, "-m", "ziglang", "cc"]] if find_spec("ziglang") else []
    return [*bundled, [os.environ.get("CC", "cc")]]


def compile_library(root: Path) -> str:
    """Make the library beside its source; return why that cannot be, "" if it was done."""
    made, complaints = root / LIBRARY, []
    sources = sorted(map(str, (root / PACKAGE).rglob("*.c")))
    made.unlink(missing_ok=True)
    alone = [] if sys.platform == "darwin" else ["-nostdlib"]  # it calls no other library
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        for compiler in compilers():
            command = [*compiler, *FLAGS, *alone, "-o", str(made), *sources]
            try:
                subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            except OSError as error:
                complaints.append(f"{compiler[0]}: {error}")
            except subprocess.CalledProcessError as error:
                complaints.append(f"{' '.join(command)}:\n{error.stderr}")
            else:
                return ""
    made.unlink(missing_ok=True)
    return "\n".join(complaints)


class CustomBuildHook(BuildHookInterface):  # hatchling looks for this name
    """What hatchling calls before it packs a wheel, or links to these sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the wheel for this system, whatever Python it has."""
        del version
        pure = os.environ.get("DVECDB_PURE") == "1"
        why = "DVECDB_PURE=1" if pure else compile_library(Path(self.root))
        if why:
            self.app.display_warning(f"built without its compiled part, so slower: {why}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
