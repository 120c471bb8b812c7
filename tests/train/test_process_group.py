"""Which network interface the workers connect by."""

from __future__ import annotations

import os

import psutil
import pytest

from rtk.train.process_group import interface_of, use_interface_of_node


def test_interface_is_the_one_with_the_address():
    for name, addresses in psutil.net_if_addrs().items():
        for entry in addresses:
            if entry.address == "127.0.0.1":
                assert interface_of("127.0.0.1") == name


def test_no_interface_has_an_address_of_elsewhere():
    assert interface_of("192.0.2.1") is None  # kept for documentation by RFC 5737


@pytest.mark.parametrize("own", [None, "chosen0"])
def test_node_decides_unless_the_user_has(ray_session, monkeypatch, own):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    if own:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    use_interface_of_node()
    expected = own or interface_of(ray_session.util.get_node_ip_address())
    assert os.environ.get("GLOO_SOCKET_IFNAME") == expected
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
