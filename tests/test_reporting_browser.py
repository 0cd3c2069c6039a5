"""The report's page in a real browser: no error, no request, and a table that sorts."""

from pathlib import Path

from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.page import PageContent, build_page
from tests.headless_browser import open_browser
from tests.test_reporting_figures import COUNTS, measured, reported

READY = "document.body?.dataset.ready"
COLUMN = "[...document.querySelectorAll('table.sortable tbody tr')].map(row => row.cells[{}].textContent)"


def test_a_click_on_a_heading_sorts_and_another_turns_it_round(tmp_path: Path) -> None:
    run = reported("a <b>run</b>", measured(COUNTS))
    content = PageContent(
        runs=(run,),
        split="val",
        store="data",
        store_digest="0",
        frequency=Frequency(COUNTS.sum(axis=1), COUNTS.sum(axis=1), COUNTS.sum(axis=1)),
        figures={},
        confusions={},
        differences=(),
        notes=(),
        version="0",
    )
    page = tmp_path / "report.html"
    page.write_text(build_page(content), encoding="utf-8")
    browser = open_browser(tmp_path / "profile")
    try:
        browser.open(page, until=READY)
        heads = browser.run("[...document.querySelectorAll('table.sortable thead th')].map(head => head.textContent)")
        names = browser.run(COLUMN.format(0))
        last = len(heads) - 1
        for column in (last, 0):
            click = f"document.querySelectorAll('table.sortable thead th')[{column}].firstElementChild.click()"
            browser.run(click)
            first = browser.run(COLUMN.format(column))
            browser.run(click)
            second = browser.run(COLUMN.format(column))
            known = [value for value in first if value != "–" and value != "-"]
            if column == last:  # numbers: the largest first; what has none stays last
                values = [float(value) for value in known]
                assert values == sorted(values, reverse=True)
                assert [value for value in second if value in known] == known[::-1]
                assert first[len(known) :] == second[len(known) :]
            else:
                assert first == sorted(names)
                assert second == first[::-1]
        assert sorted(browser.run(COLUMN.format(0))) == sorted(names)
        problems = [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
        assert problems == []
    finally:
        browser.close()
