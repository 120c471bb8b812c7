"""Which network interface the workers connect by."""

from __future__ import annotations

import os

import psutil
import pytest

from rtk.runtime.process_group import interface_of, use_interface_of_node


def test_interface_is_the_one_with_the_address():
    name = interface_of("127.0.0.1")
    assert "127.0.0.1" in {entry.address for entry in psutil.net_if_addrs()[name]}


def test_no_interface_has_an_address_of_elsewhere():
    assert interface_of("no.such.address") is None


@pytest.mark.parametrize("own", [None, "chosen0"])
def test_node_decides_unless_the_user_has(ray_session, monkeypatch, own):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if own:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    use_interface_of_node()
    expected = own or interface_of(ray_session.util.get_node_ip_address())
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
