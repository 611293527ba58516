"""Secrets in URLs and commands are found and masked, and nothing else is."""

from __future__ import annotations

import pytest

from trivium.boundary.credentials import mask, masked, problem

SECRETS = {
    "s3://AKEY:secret@bucket/runs": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "S3://AKEY:secret@bucket": "AWS_SECRET_ACCESS_KEY",
    "s3://AKEY:sec/ret+x@bucket/runs?region=eu": "AWS_SECRET_ACCESS_KEY",
    "s3://AKEY:sec?ret@bucket/runs": "AWS_SECRET_ACCESS_KEY",
    "s3://AKEY%3Asecret@bucket/runs": "AWS_SECRET_ACCESS_KEY",
    "s3://secret@bucket/runs": "AWS_SECRET_ACCESS_KEY",
    "s3://bucket/runs?secret_key=secret": "AWS_SECRET_ACCESS_KEY",
    "s3://bucket/runs?scheme=http&session_token=secret": "AWS_SECRET_ACCESS_KEY",
    "s3://bucket/runs?endpoint_override=user:secret@minio:9000": "AWS_SECRET_ACCESS_KEY",
    "gs://user:secret@bucket/runs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs://container:secret@account/runs": "AZURE_CLIENT_SECRET",
    "abfss://c@account.dfs.core.windows.net/x?client_secret=secret": "AZURE_CLIENT_SECRET",
    "hdfs://user:secret@host:9000/runs": "KRB5CCNAME",
    "fsspec+https://user:secret@host/x": "FSSPEC_HTTPS_",
}


@pytest.mark.parametrize("url", SECRETS)
def test_credentials_in_a_url_are_told_with_the_variable_to_use_and_masked(url: str) -> None:
    said = problem(url)
    assert said is not None
    assert SECRETS[url] in said
    assert "secret" not in mask(url).replace("secret_key", "").replace("client_secret", "")
    assert "sec" not in mask(url).replace("secret_key", "").replace("client_secret", "")
    assert problem(mask(url).replace("***@", "")) is None or "?" in url
    assert mask(mask(url)) == mask(url)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/runs",
        "s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http",
        "s3://sk-a-bucket-with-a-long-name-of-ours/runs",
        "s3://bucket/run:1@home/x",
        "gs://anonymous@bucket/runs",
        "abfs://container@account.dfs.core.windows.net/runs",
        "hdfs://user@host:9000/runs",
        "file:///a/b@c/d",
    ],
)
def test_a_url_without_credentials_is_left_alone(url: str) -> None:
    assert problem(url) is None
    assert mask(url) == url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("trivium train 'storage=s3://k:s@b/x' seed=1", "trivium train 'storage=s3://***@b/x' seed=1"),
        (
            "train model.api_key=abc +agent.settings.password='a b'",
            "train model.api_key=*** +agent.settings.password=***",
        ),
        ("tool --token abc --quiet", "tool --token *** --quiet"),
        ("tool --token=abc", "tool --token=***"),
        ("AWS_SECRET_ACCESS_KEY=abc trivium train", "AWS_SECRET_ACCESS_KEY=*** trivium train"),
        ("https://h/x?X-Amz-Signature=abc&a=1", "https://h/x?X-Amz-Signature=***&a=1"),
        ("x=AKIAABCDEFGHIJKLMNOP", "x=***"),
        ("model.pad_token=0 num_tokens=4 tokenizer=bpe", "model.pad_token=0 num_tokens=4 tokenizer=bpe"),
        ("password: null", "password: null"),
        ("tool --token --quiet", "tool --token --quiet"),
        ("trivium train experiment=mlp_digits", "trivium train experiment=mlp_digits"),
    ],
)
def test_what_looks_like_a_secret_is_masked_in_a_command(text: str, shown: str) -> None:
    assert mask(text) == shown


def test_masking_a_tree_leaves_what_is_no_text() -> None:
    assert masked({"a": ["s3://k:s@b", 1, None], "b": {"c": 2.5}}) == {"a": ["s3://***@b", 1, None], "b": {"c": 2.5}}
