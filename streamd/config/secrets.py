"""Credentials never reach a log, a metric, an event or an error."""

import re
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

MASK = "***"
_SECRET_PARAMETER = re.compile(r"pass|pwd|token|secret|auth|key|user|login|account", re.IGNORECASE)
_URL_WITH_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE)


def mask_url(url: str) -> str:
    """`url` with its user name, password and secret query parameters replaced by `***`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return mask_text(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{MASK}@{host}" if "@" in parts.netloc else parts.netloc
    query = parts.query
    if query:
        pairs = parse_qsl(query, keep_blank_values=True)
        masked = [(k, MASK if _SECRET_PARAMETER.search(k) else v) for k, v in pairs]
        query = urlencode(masked, safe="*/:")
    return urlunsplit((parts.scheme, netloc, parts.path, query, parts.fragment))


def mask_text(text: str) -> str:
    """`text` with the user information of every URL in it replaced by `***`."""
    return _URL_WITH_USERINFO.sub(rf"\1{MASK}@", text)
