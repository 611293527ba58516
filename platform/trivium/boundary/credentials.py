"""Secrets that get into a URL or a command by mistake: found, so that they are refused, and masked where shown.

A run writes its config and its command into files that are shared. What a bucket asks for belongs into the environment
variables that its library reads.
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"
VARIABLES = {  # that the libraries of each kind of bucket read
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    "abfss": "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
    "hdfs": "KRB5CCNAME",
    "viewfs": "KRB5CCNAME",
}

_NAME = (
    r"[\w.-]*(?:secret|password|passwd|passphrase|credentials?|signature|(?:api|access|account|private|secret)[_-]?key"
    r"(?:[_-]?id)?|(?:access|api|auth|bearer|sas|security|session)[_-]?token)|(?:[\w.-]*[.-])?(?:token|sig)"
)
_VALUE = r"\"[^\"]*\"|'[^']*'|[^\s&,;'\"{}\[\]]+"
_NAMED = re.compile(rf"(?<![\w.-])({_NAME})(['\"]?\s*[=:]\s*)(?!(?:null|None|true|false)\b)({_VALUE})", re.I)
_FLAG = re.compile(rf"(?<!\S)(--?(?:{_NAME}))(\s+)(?!-)({_VALUE})", re.I)
_URL = re.compile(r"([A-Za-z][\w+.-]*)://([^\s'\"<>]+)")
_KNOWN = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|hf_\w{20,}|gh[opsru]_\w{20,}|github_pat_\w{20,}|sk-(?:\w+-)*[A-Za-z0-9_]{20,}|xox[abprs]-[\w-]{10,}"
    r"|eyJ[\w-]{10,}\.[\w-]+\.[\w-]+)"
)


def problem(url: str) -> str | None:
    """Which part of a bucket's URL is a secret, and the variable to use in its place; None if none looks like one.

    Example:
        s3://bucket/runs -> None;  s3://key:secret@bucket/runs -> "... AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY ..."
    """
    scheme, _, rest = url.partition("://")
    query = rest.partition("?")[2]
    if _without_user(scheme, rest) == rest and _NAMED.sub(MASK, query) == query:
        return None
    variables = VARIABLES.get(scheme.lower(), f"FSSPEC_{scheme.rpartition('+')[2].upper()}_<OPTION>")
    return f"holds credentials, which would be written into the run's files; set {variables} instead"


def mask(text: str) -> str:
    """A text with `***` in place of what looks like a secret: a password before a URL's host, the value of an option
    that is named for one, and the tokens of well-known services.

    Example:
        trivium train storage=s3://key:secret@b/runs model.api_key=abc
        -> trivium train storage=s3://***@b/runs model.api_key=***
    """
    text = _URL.sub(lambda url: f"{url[1]}://{_without_user(url[1], url[2])}", text)
    text = _NAMED.sub(rf"\1\2{MASK}", text)
    text = _FLAG.sub(rf"\1\2{MASK}", text)
    return _KNOWN.sub(MASK, text)


def masked(node: Any) -> Any:
    """A copy of nested dicts and lists, each text in it masked."""
    if isinstance(node, dict):
        return {key: masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [masked(value) for value in node]
    return mask(node) if isinstance(node, str) else node


def _without_user(scheme: str, rest: str) -> str:
    """What follows a URL's scheme, with its user's name and password masked where that is a secret. A secret may hold
    a slash; a bucket's name holds no colon but before a port."""
    rest = re.sub(r"(?<=[?&])(\w+=)[^&]*?(@|%40)", rf"\1{MASK}\2", rest)  # of an endpoint
    host = rest.partition("/")[0]
    user, at, _ = host.rpartition("@")
    if not at and re.search(r":(?!\d*([?#]|$))", host):
        user, at, _ = re.split(r"[?#]", rest)[0].rpartition("@")
    if not at or (":" not in user and "%3a" not in user.lower() and scheme.lower() != "s3"):
        return rest  # nobody, or only a name: anonymous of gs://, the container of abfs://
    return f"{MASK}@{rest[len(user) + 1 :]}"
