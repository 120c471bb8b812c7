from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from rtk.report.gallery import SIDE, Picture, gallery


def inlined(html: str) -> list[Image.Image]:
    return [
        Image.open(io.BytesIO(base64.b64decode(text)))
        for text in re.findall(r'src="data:image/jpeg;base64,([^"]*)"', html)
    ]


def test_pictures_are_in_the_page_and_small(photo):
    red = np.zeros((8, 16, 3), np.uint8)
    red[..., 0] = 200
    large = np.zeros((400, 900), np.uint8)
    html = gallery([Picture(photo, ["a photo"]), Picture(red, ["red", "msp 0.91"]), Picture(large, [])])
    sizes = [image.size for image in inlined(html)]
    assert sizes == [(48, 40), (16, 8), (SIDE, 71)]
    assert np.abs(np.asarray(inlined(html)[1]).astype(int) - red).max() <= 4
    assert 'width="120" height="60" class="enlarged" alt="red"' in html
    assert "<b>red</b><br>msp 0.91" in html
    assert html.count("<figure>") == 3


def test_names_are_escaped():
    html = gallery([Picture(np.zeros((2, 2, 3), np.uint8), ['<b>"cat"</b> & dog', "<script>"])])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert 'alt="&lt;b&gt;&#34;cat&#34;&lt;/b&gt; &amp; dog"' in html


def test_what_cannot_be_decoded_is_said(photo):
    html = gallery([Picture(photo[: len(photo) // 2], ["torn"]), Picture(b"", ["none"])])
    assert "<img" not in html
    assert html.count("no-picture") == 2
    assert "none</b><br>cannot be decoded: empty (0 bytes)" in html
