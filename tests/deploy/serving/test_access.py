"""Who may ask: tokens by their hash, and none only on this machine."""

from __future__ import annotations

import hashlib

import pytest

from rtk.config import ConfigError
from rtk.deploy.serving.access import check_exposure, is_admitted, is_loopback, token_hash

SECRET = "a-secret-of-some-length"
SHA256 = hashlib.sha256(SECRET.encode()).hexdigest()


def test_the_token_is_known_by_its_hash_alone():
    assert token_hash(None, {}) is None
    assert token_hash(None, {"RTK_SERVE_TOKEN": f" {SECRET}\n"}) == SHA256
    assert token_hash(SHA256, {"RTK_SERVE_TOKEN": "another secret of a length"}) == SHA256


def test_a_short_token_is_refused_and_not_repeated():
    with pytest.raises(
        ConfigError, match="RTK_SERVE_TOKEN: got 6 characters, wanted a secret of 16"
    ) as error:
        token_hash(None, {"RTK_SERVE_TOKEN": "sesame"})
    assert "sesame" not in str(error.value)


def test_a_token_that_no_header_brings_is_refused():
    with pytest.raises(ConfigError, match="RTK_SERVE_TOKEN: got characters beyond ASCII, wanted a secret of"):
        token_hash(None, {"RTK_SERVE_TOKEN": "schlüssel zum server"})


@pytest.mark.parametrize("given", [SHA256[:-1], SHA256.upper(), SECRET, ""])
def test_what_is_no_hash_is_refused(given):
    with pytest.raises(ConfigError, match="--token-sha256: wanted 64 hexadecimal digits"):
        token_hash(given, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org", ""])
def test_nobody_listens_beyond_this_machine_without_a_token(host):
    with pytest.raises(ConfigError, match="--host: .* set RTK_SERVE_TOKEN to a secret"):
        check_exposure(host, None)
    check_exposure(host, SHA256)


def test_this_machine_needs_none():
    for host in ("127.0.0.1", "127.8.0.1", "::1", "localhost"):
        assert is_loopback(host)
        check_exposure(host, None)


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (f"Bearer {SECRET}", True),
        (f"bearer  {SECRET} ", True),
        (f"Bearer {SECRET}x", False),
        (f"Bearer {SHA256}", False),  # the hash itself opens nothing
        (f"Basic {SECRET}", False),
        (SECRET, False),
        ("Bearer", False),
        ("", False),
        (None, False),
    ],
)
def test_a_request_has_to_bring_the_token(header, admitted):
    assert is_admitted(header, SHA256) is admitted
    assert is_admitted(header, None)
