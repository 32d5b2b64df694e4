"""From the description of an embedder to the embedder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from dvecdb.clock import SystemClock
from dvecdb.embedding.embedders.address import (
    openai_path,
    parse_address,
    proxy_of,
    service_path,
    with_path,
)
from dvecdb.embedding.embedders.http import Endpoint
from dvecdb.embedding.embedders.openai import OpenAiEmbedder
from dvecdb.embedding.embedders.service import ServiceEmbedder
from dvecdb.errors import Code, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dvecdb.embedding.job import EmbedderSpec
    from dvecdb.embedding.model import Embedder

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")


def open_embedder(spec: EmbedderSpec, environment: Mapping[str, str]) -> Embedder:
    """Return the embedder that is described. No request is made before the first `embed`.

    environment: where the URL, the key and proxies are looked up; usually `os.environ`.

    Raises:
        InvalidRequestError: `invalid-job`, a field or a variable is missing or cannot be used;
            `extra-missing`, for a local model.
    """
    if spec.kind == "local":
        if spec.model is None:
            raise _invalid("embedder.model is missing; a local one is fake, minilm or static")
        from dvecdb.embedding.local.models import (  # noqa: PLC0415  # heavy, and an extra
            open_model,
        )

        return open_model(spec.model, spec.dimensions)
    if spec.kind == "openai":
        if spec.model is None:
            raise _invalid("embedder.model is missing, such as text-embedding-3-small")
        return OpenAiEmbedder(
            _endpoint(spec, environment),
            spec.model,
            dimensions=spec.dimensions,
            encoding=spec.encoding,
        )
    return ServiceEmbedder(
        _endpoint(spec, environment),
        model=spec.model,
        dimensions=spec.dimensions,
        texts_field=spec.texts_field,
        vectors_field=spec.vectors_field,
    )


def _endpoint(spec: EmbedderSpec, environment: Mapping[str, str]) -> Endpoint:
    url = spec.url or environment.get(spec.url_env, "").strip()
    if not url:
        raise _invalid(
            f"the embedder has no URL: set the environment variable {spec.url_env}, or "
            "embedder.url of the job"
        )
    what = "embedder.url" if spec.url else f"the environment variable {spec.url_env}"
    address = parse_address(url, what)
    find_path = openai_path if spec.kind == "openai" else service_path
    address = with_path(address, find_path(urlsplit(address.url).path, spec.path))
    return Endpoint(
        address,
        _headers(spec, environment),
        timeout_seconds=spec.timeout_seconds,
        connect_timeout_seconds=spec.connect_timeout_seconds,
        proxy=proxy_of(address, environment),
        clock=SystemClock(),
    )


def _headers(spec: EmbedderSpec, environment: Mapping[str, str]) -> dict[str, str]:
    headers = {}
    if spec.api_key_env is not None:
        key = environment.get(spec.api_key_env, "").strip()
        if not key:
            raise _invalid(
                f"the environment variable {spec.api_key_env} (embedder.api_key_env) is not set; "
                "it holds the key of the embedder"
            )
        headers["authorization"] = f"Bearer {key}"
    headers |= {name.lower(): value for name, value in spec.headers.items()}
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise _invalid(
                f"the header {name!r} of the embedder cannot be sent: it, or the key in it, has "
                "characters that are not printable ASCII"
            )
    return headers


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(Code.INVALID_JOB, message)
