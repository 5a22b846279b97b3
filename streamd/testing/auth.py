"""Basic (RFC 7617) and Digest (RFC 7616 with MD5, as most cameras do) authentication."""

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

Scheme = Literal["basic", "digest"]
_REALM = "camera"
_PARAMETER = re.compile(r'(\w+)=(?:"([^"]*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True)
class Access:
    """The one user who may enter, and how the password is asked for."""

    user: str
    password: str
    scheme: Scheme = "digest"
    nonce: str = field(default_factory=lambda: secrets.token_hex(16))

    def challenge(self) -> str:
        """Return the value of the WWW-Authenticate header."""
        if self.scheme == "basic":
            return f'Basic realm="{_REALM}"'
        return f'Digest realm="{_REALM}", nonce="{self.nonce}", algorithm=MD5'

    def admits(self, method: str, authorization: str) -> bool:
        """Tell whether a request's Authorization header (empty if it has none) is right."""
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() != self.scheme:
            return False
        if self.scheme == "basic":
            expected = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            return rest.strip() == expected
        sent = {key: quoted or bare for key, quoted, bare in _PARAMETER.findall(rest)}
        return sent.get("response") == self._digest(method, sent)

    def inserted_into(self, url: str) -> str:
        """Return `url` with user and password in front of its host, percent-encoded."""
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{quote(self.user, safe='')}:{quote(self.password, safe='')}@{rest}"

    def _digest(self, method: str, sent: dict[str, str]) -> str:
        secret = _md5(f"{self.user}:{_REALM}:{self.password}")
        request = _md5(f"{method}:{sent.get('uri', '')}")
        return _md5(f"{secret}:{self.nonce}:{request}")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
