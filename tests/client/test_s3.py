"""Signed requests to S3-compatible stores: the examples of Amazon's own documentation."""

from __future__ import annotations

import hashlib

import pytest

from nebh.client.s3 import EMPTY, Store, parse_store, sign_request
from nebh.model.errors import BadInput

# The key, requests and signatures of "Authenticating Requests: Using the Authorization Header", Amazon S3 API reference.
EXAMPLE = Store(
    url="https://examplebucket.s3.amazonaws.com/x",
    key="AKIAIOSFODNN7EXAMPLE",
    secret="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
)
HOST, AT = "examplebucket.s3.amazonaws.com", "20130524T000000Z"


@pytest.mark.parametrize(
    ("method", "target", "headers", "digest", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {"range": "bytes=0-9"},
            EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)
def test_requests_are_signed_as_the_documentation_signs_them(method, target, headers, digest, signature):
    made = sign_request(method=method, host=HOST, target=target, digest=digest, at=AT, store=EXAMPLE, headers=headers)
    assert made["Authorization"].endswith(f"Signature={signature}")


def test_a_store_is_named_by_its_address():
    found = parse_store("s3+http://127.0.0.1:9000/bucket/a/?region=eu-1", find={"AWS_ACCESS_KEY_ID": "k"}.get)
    assert (found.url, found.key, found.region) == ("http://127.0.0.1:9000/bucket/a", "k", "eu-1")
    assert parse_store("s3://store.example/bucket").url == "https://store.example/bucket"
    for bad in ("s3://host", "s3:///bucket", "http://host/bucket", "s3://key:secret@host/bucket", "s3"):
        with pytest.raises(BadInput):
            parse_store(bad)
