"""Both kinds of page are made by one builder: the same head and style, only their content differs."""

from __future__ import annotations

import re

from rtk.report.page import render, write_page

EMPTY = {"tables": [], "per_run": [], "headline": [], "curves": [], "differences": []}


def test_pages_share_their_head():
    report, comparison = (
        render(f"{kind}_page.html", title="<this> & that", **EMPTY) for kind in ("run", "comparison")
    )
    heads = [page.partition("<h1>")[0] for page in (report, comparison)]
    assert heads[0].replace("rtk report", "rtk compare") == heads[1]
    assert "<title>rtk compare: &lt;this&gt; &amp; that</title>" in heads[1]
    for page in (report, comparison):
        assert page.count("<style>") == page.count("<h1>") == page.count("</html>") == 1
        assert re.search(r"<p>20\d\d-\d\d-\d\d \d\d:\d\d, written by rtk\.", page)
        assert not re.search(r'(src|href)="', page)  # nothing is fetched: a page is one file


def test_a_page_is_written_with_its_folder(tmp_path):
    path = tmp_path / "new" / "page.html"
    assert write_page(path, "comparison_page.html", title="runs", **EMPTY) == path
    assert "<h1>runs</h1>" in path.read_text()
