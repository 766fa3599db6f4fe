"""S3-compatible stores as mirrors: requests signed with AWS Signature Version 4, nothing else of S3."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from nebh.model.errors import BadInput

EMPTY: Final = hashlib.sha256(b"").hexdigest()
_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, kw_only=True)
class Store:
    """A bucket (and a path in it) by its HTTP address, with the key that may use it; key "" = requests go unsigned."""

    url: str
    key: str = ""
    secret: str = ""
    region: str = "us-east-1"

    def sign(self, method: str, host: str, target: str) -> dict[str, str]:
        """Return the headers that sign a request without a body."""
        return self.sign_body(method, host, target, digest=EMPTY)

    def sign_body(self, method: str, host: str, target: str, *, digest: str) -> dict[str, str]:
        """Return the headers that sign a request with a body of that SHA-256."""
        return sign_request(
            method=method,
            host=host,
            target=target,
            digest=digest,
            at=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            store=self,
        )


def sign_request(
    *,
    method: str,
    host: str,
    target: str,
    digest: str,
    at: str,
    store: Store,
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return `x-amz-date`, `x-amz-content-sha256` and `Authorization` (and `headers`, signed along). target: path as it
    is sent, without a query; digest: hex SHA-256 of the body; at: `20130524T000000Z`."""
    fields = {**(headers or {}), "x-amz-content-sha256": digest, "x-amz-date": at}
    signed = {name.lower(): value.strip() for name, value in {**fields, "host": host}.items()}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"{method}\n{target}\n\n{lines}\n{names}\n{digest}"
    scope = f"{at[:8]}/{store.region}/s3/aws4_request"
    text = f"{_ALGORITHM}\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{store.secret}".encode()
    for part in (at[:8], store.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    value = f"{_ALGORITHM} Credential={store.key}/{scope},SignedHeaders={names},Signature={signature}"
    return {**fields, "Authorization": value}


def parse_store(url: str, *, find: Callable[[str], str] = lambda _: "") -> Store:
    """Return the store that `s3://host/bucket/base` names (`s3+http://` without TLS; `?region=...`). find: gives
    AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without them requests go unsigned, for a bucket that anybody may read.
    Raises BadInput; a key in the address, which is signed for everybody to read, is one."""
    parts = urlsplit(url)
    if parts.scheme not in ("s3", "s3+http") or not parts.hostname or not parts.path.strip("/") or parts.username:
        raise BadInput(f"cannot use the store {url!r}", hint="write s3://HOST/BUCKET or s3://HOST/BUCKET/PATH")
    scheme = "https" if parts.scheme == "s3" else "http"
    region = parts.query.removeprefix("region=") if parts.query.startswith("region=") else "us-east-1"
    return Store(
        url=f"{scheme}://{parts.netloc}/{parts.path.strip('/')}",
        key=find("AWS_ACCESS_KEY_ID"),
        secret=find("AWS_SECRET_ACCESS_KEY"),
        region=region,
    )
