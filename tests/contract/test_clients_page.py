"""The examples of docs/clients.md run against a server, in order."""

import json
from pathlib import Path

from tests.contract.doors import SETTINGS
from tests.e2e.test_docs import BLOCK

from dvecdb import Settings
from dvecdb.testing.serving import serving

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


def test_the_examples_do_what_they_show(tmp_path):
    with serving(str(tmp_path / "data"), settings=Settings(**SETTINGS)) as served:
        blocks = [match[2] for match in BLOCK.finditer(PAGE.read_text()) if match[1] == "python"]
        assert len(blocks) == 7
        lines = [json.dumps({"id": number, "title": f"row {number}"}) for number in range(3)]
        (tmp_path / "data" / "incidents.jsonl").write_text("\n".join(lines))
        for text in blocks:
            assert "http://127.0.0.1:3030" in text
            exec(text.replace("http://127.0.0.1:3030", served.url), {"__name__": "page"})
        docs = served.database.collection("docs")
        assert docs.count() == 14 + 2_500
