"""One server for all tests that only ask it."""

from dataclasses import replace

import pytest

from tests.deploy.serving.asking import serving


@pytest.fixture(scope="module")
def url(packaged):
    with serving(replace(packaged, expected={"accept": 6, "likely-wrong": 3, "unfamiliar": 1})) as found:
        yield found
