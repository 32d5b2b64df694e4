"""Embedding jobs: rows of a source become vectors of a collection, each text paid for once.

import dvecdb
from dvecdb.embedding import parse_job, run

job = parse_job({"target": ..., "sources": ..., "embedder": ...})  # or a TOML file: parse_toml
with dvecdb.connect("http://127.0.0.1:3030") as db:
    report = run(job, db)

A job may be killed at any moment and started again: what was committed is not embedded again, for
the cursor is written in the same batch as the vectors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvecdb.embedding.care import check_job, delete_missing, estimate_job, status, wish
    from dvecdb.embedding.controls import Controls
    from dvecdb.embedding.job import Job, parse_job, parse_toml
    from dvecdb.embedding.report import Checked, Estimate, JobReport, Status
    from dvecdb.embedding.running import run

__all__ = [
    "Checked",
    "Controls",
    "Estimate",
    "Job",
    "JobReport",
    "Status",
    "check_job",
    "delete_missing",
    "estimate_job",
    "parse_job",
    "parse_toml",
    "run",
    "status",
    "wish",
]

_MODULES = {
    "care": ("check_job", "delete_missing", "estimate_job", "status", "wish"),
    "controls": ("Controls",),
    "job": ("Job", "parse_job", "parse_toml"),
    "report": ("Checked", "Estimate", "JobReport", "Status"),
    "running": ("run",),
}


def __getattr__(name: str) -> Any:
    """Import on use: the modules of a job are needed by those who run one."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"dvecdb.embedding.{module}"), name)
    raise AttributeError(f"module 'dvecdb.embedding' has no attribute {name!r}")
