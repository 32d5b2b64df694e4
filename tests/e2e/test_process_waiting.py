"""Writers that wait behind a group that failed are told so, each and at once."""

import errno
import threading

import numpy as np
import pytest

import dvecdb
from dvecdb.errors import DvecdbError
from dvecdb.media.files import OsFiles


class StuckFiles(OsFiles):
    """A disk whose next sync waits for `go` and then fails, once."""

    def __init__(self):
        self.go = threading.Event()
        self.is_stuck = threading.Event()
        self.armed = False

    def sync(self, file):
        if self.armed:
            self.armed = False
            self.is_stuck.set()
            assert self.go.wait(30)
            raise OSError(errno.EIO, "Input/output error")
        super().sync(file)


@pytest.mark.crash
def test_whoever_waited_behind_a_failed_sync_is_refused_with_a_code(tmp_path):
    files = StuckFiles()
    codes = {}
    with dvecdb.Database(str(tmp_path / "data"), files=files) as database:
        docs = database.create_collection("docs", dimension=2)
        docs.upsert(ids=["kept"], vectors=np.ones((1, 2)))

        def write(name):
            try:
                docs.upsert(ids=[name], vectors=np.ones((1, 2)))
            except DvecdbError as error:
                codes[name] = error.code

        files.armed = True
        threads = [threading.Thread(target=write, args=(f"{number}",)) for number in range(6)]
        threads[0].start()
        assert files.is_stuck.wait(30)
        for thread in threads[1:]:
            thread.start()
        while len(docs._group._queue) < 5:
            threading.Event().wait(0.001)
        files.go.set()
        for thread in threads:
            thread.join(30)
        assert codes == {"0": "outcome-unknown"} | dict.fromkeys("12345", "writes-stopped")
        assert docs.get(["kept", "0", "1"])[1:] == [None, None]
    with dvecdb.open(tmp_path / "data") as database:
        docs = database.collection("docs")
        assert docs.get(["kept"])[0] is not None
        assert docs.get(list("12345")) == [None] * 5
