"""The page about HTTP shows what happens: its requests are sent, in order, and answered so.

A block is a request, or the answer to the block before it. Headers of an answer are those that
matter; in its body `"..."` stands for any value, and `"<word>"` for one that a later request sends.
"""

import re
from itertools import pairwise
from pathlib import Path

import msgspec
from tests.api.orphans import orphan

PAGE = Path(__file__).parents[2] / "docs" / "http.md"


def messages():
    """Return (first line, headers, body) of every block."""
    found = []
    for text in re.findall(r"^```http\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        head, _, body = text.partition("\n\n")
        first, *lines = head.strip().splitlines()
        headers = dict(line.split(": ", 1) for line in lines)
        found.append((first, headers, body and msgspec.json.decode(body)))
    return found


def fits(shown, found, kept=None):
    """Return whether `found` is what `shown` shows; kept: what words in brackets stand for."""
    if shown == "...":
        return True
    if isinstance(shown, str) and re.fullmatch("<[a-z]+>", shown) and kept is not None:
        return kept.setdefault(shown, found) == found
    if isinstance(shown, dict) and isinstance(found, dict):
        return shown.keys() == found.keys() and all(
            fits(shown[key], found[key], kept) for key in shown
        )
    if isinstance(shown, list) and isinstance(found, list):
        return len(shown) == len(found) and all(
            fits(one, other, kept) for one, other in zip(shown, found, strict=True)
        )
    return shown == found


def write_incidents(path):
    row = {"title": "a title", "description": "what happened", "severity": "high"}
    lines = [
        msgspec.json.encode({"id": number, **row, "title": f"{number}"}) for number in range(3)
    ]
    path.write_bytes(b"\n".join(lines))


def test_every_request_of_the_page_is_answered_as_it_shows(server):
    orphan(Path(server.path) / "old")
    write_incidents(Path(server.path) / "incidents.jsonl")
    blocks = messages()
    answered, kept = 0, {}
    for (first, headers, body), (answer, shown_headers, shown) in pairwise(blocks):
        if not answer.startswith("HTTP/1.1"):
            continue
        method, target = first.split()
        body = {name: kept.get(value, value) if isinstance(value, str) else value
                for name, value in (body or {}).items()}  # fmt: skip
        response = server(method, target, body or None, headers=headers)
        if response.status == 202:  # what comes next is of its end
            server.tasks.wait(response.data["task"]["id"])
        assert response.status == int(answer.split()[1]), (first, response.body)
        for name, value in shown_headers.items():
            assert response.headers[name.lower()] == value, first
        assert fits(shown, response.json, kept), (first, response.json)
        answered += 1
    assert answered * 2 == len(blocks) >= 20


def test_dots_stand_for_any_value():
    assert fits({"a": ["...", 1]}, {"a": [{"b": 2}, 1]})
    assert not fits({"a": "..."}, {"a": 1, "b": 2})
    assert not fits([1], [1, 2])


def test_words_in_brackets_stand_for_one_value():
    kept = {}
    assert fits(["<path>", "<path>"], ["x", "x"], kept)
    assert kept == {"<path>": "x"}
    assert not fits("<path>", "y", kept)
