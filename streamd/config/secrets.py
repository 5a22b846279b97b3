"""Credentials never reach a log, a metric, an event or an error."""

import re

MASK = "***"
_AFTER_SCHEME = re.compile(r"(?<=://)\S+")
_LOGIN = re.compile(r"^[^/?#]*@")
# `password=...` in a query or, as some recorders have it, in the path; up to the quote or full stop
# in which a message may have set the whole URL.
_SECRET_PARAMETER = re.compile(
    r"([^=&#/?\s]*(?:pass|pwd|token|secret|auth|key|user|login|account|cred|sig)[^=&#/?\s]*)="
    r"[^&#\s]*?(?=['\"),.;:]*(?:[&#\s]|$))",
    re.IGNORECASE,
)
_NAMED_PASSWORD = re.compile(
    r"(?:pass|pwd|token|secret|api_?key|cred)[^=&#/?\s]*=[^&#\s]", re.IGNORECASE
)


def holds_literal_secret(text: str, *, named: bool) -> bool:
    """Whether `text` holds a password; `named` says that all of it would be one.

    A user's name alone is none.
    """
    _, separator, rest = text.partition("://")
    if named or not separator:
        return named and bool(text)
    login = rest.rpartition("@")[0]
    return bool(login.partition(":")[2]) or bool(_NAMED_PASSWORD.search(rest))


def mask_url(url: str) -> str:
    """`url` with its user name, password and secret parameters replaced by `***`."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}://{_masked(rest)}" if separator else url


def mask_text(text: str) -> str:
    """`text` with the credentials in every URL in it replaced by `***`."""
    return _AFTER_SCHEME.sub(lambda found: _masked(found.group()), text)


def _masked(rest: str) -> str:
    """What follows the `://` of a URL, masked; rather too much than too little of it.

    A password may hold what should have been escaped (`/`, `?`, `#`, `@`), so all up to the last
    `@` is taken for the login where a `:` stands before it. If a parameter could stand there as
    well, nothing is shown.
    """
    login, _, place = rest.rpartition("@")
    if ":" in login:
        if "=" in login and set(login) & set("/?#"):
            return MASK
        rest = f"{MASK}@{place}"
    else:
        rest = _LOGIN.sub(f"{MASK}@", rest)
    return _SECRET_PARAMETER.sub(rf"\1={MASK}", rest)
