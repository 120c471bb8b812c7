"""Who may ask a server: everybody on this machine, or who brings its token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from collections.abc import Mapping

from rtk.config.errors import ConfigError

TOKEN = "RTK_SERVE_TOKEN"  # nosec B105  # the name of a variable
LEAST_CHARACTERS = 16
WANTED = f"a secret of {LEAST_CHARACTERS} characters or more, such as `openssl rand -hex 16` prints"


def token_hash(given: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """SHA-256 (hexadecimal) of the token that every request has to bring; None: it needs none.

    Args:
        given: `--token-sha256`; None: that of the variable RTK_SERVE_TOKEN, where it is set.
        environment: where it is looked up.

    Raises:
        ConfigError: what was given is no such hash, or the token is too short or none for a header.
    """
    if given is not None:
        if not re.fullmatch(r"[0-9a-f]{64}", given):
            raise ConfigError(
                "--token-sha256: wanted 64 hexadecimal digits, as `printf %s TOKEN | sha256sum` prints them"
            )
        return given
    token = environment.get(TOKEN, "").strip()
    if not token:
        return None
    if len(token) < LEAST_CHARACTERS:  # not repeated
        raise ConfigError(f"{TOKEN}: got {len(token)} characters, wanted {WANTED}")
    if not token.isascii():  # a header has no other characters that all clients send alike
        raise ConfigError(f"{TOKEN}: got characters beyond ASCII, wanted {WANTED}")
    return hashlib.sha256(token.encode()).hexdigest()


def check_exposure(host: str, sha256: str | None) -> None:
    """Refuse to listen where other machines can ask, if everybody could.

    Raises:
        ConfigError: naming the variable that mends it.
    """
    if sha256 is None and not is_loopback(host):
        raise ConfigError(
            f"--host: {host} can be reached by other machines, which need a token; set {TOKEN} to {WANTED}"
        )


def is_loopback(host: str) -> bool:
    """Whether an address, or name, is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_admitted(authorization: str | None, sha256: str | None) -> bool:
    """Whether a request with this header (`Bearer TOKEN`) may be answered."""
    if sha256 is None:
        return True
    scheme, _, token = (authorization or "").partition(" ")
    brought = hashlib.sha256(token.strip().encode()).hexdigest()
    return scheme.lower() == "bearer" and hmac.compare_digest(brought, sha256)
