"""The report's page: every value is escaped, the policy admits the page's own style and script, tables are complete."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np

from lg3d_core.reporting.confusions import Confusion
from lg3d_core.reporting.figure_kinds import CAPTIONS, PLACES, TITLES, FigureKind, Plot
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.page import PageContent, PageFigure, build_page
from lg3d_core.reporting.subject import ReportedRun
from tests.test_reporting_figures import COUNTS, measured, reported

NAME = "<img src=x onerror=\"alert(1)\"> & 'co'"
PNG = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + (50).to_bytes(4, "big") * 2


class Elements(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def build(*runs: ReportedRun) -> str:
    return build_page(
        PageContent(
            runs=runs,
            split=NAME,
            store=NAME,
            store_digest=NAME,
            frequency=Frequency(COUNTS.sum(axis=1), COUNTS.sum(axis=1), COUNTS.sum(axis=1)),
            figures=[
                PageFigure(kind, kind, NAME, NAME, PNG, (NAME, "b.pdf"))
                for kind in (FigureKind.CURVES, FigureKind.CATEGORIES)
            ],
            confusions={run.name: (Confusion(NAME, NAME, 1234, 0.25),) for run in runs},
            differences=(),
            notes=(NAME,),
            version=NAME,
        )
    )


def test_names_cannot_add_elements_and_are_shown_as_they_are() -> None:
    page = build(reported(NAME, measured(COUNTS)))
    found = Elements(page)
    images = [attrs for tag, attrs in found.tags if tag == "img"]
    assert [(image["width"], image["alt"]) for image in images] == [("34", f"{NAME}: {NAME}")] * 2  # 50 * 17 // 25
    assert all(image["src"] == f"data:image/png;base64,{base64.b64encode(PNG).decode()}" for image in images)
    assert not [attrs for _, attrs in found.tags if "onerror" in attrs]
    assert [attrs["href"] for tag, attrs in found.tags if tag == "a"] == [NAME, "b.pdf"] * 2
    for text in (NAME, f"{NAME} · lg3d report", f"Card of {NAME}", f"IoU {NAME}", f"Made by lg3d {NAME}."):
        assert text in found.texts
    facts = f"1 {NAME} scene; store {NAME} ({NAME}); 3 of 4 classes annotated there"
    assert facts in found.texts


def test_the_policy_admits_the_style_and_the_script_of_the_page() -> None:
    page = build(reported("run", measured(COUNTS)))
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1]


def test_rows_of_classes_have_numbers_to_sort_by() -> None:
    page = build(reported("run", measured(COUNTS)))
    # Class a: 80 vertices are right, 100 annotated, 95 predicted: 80 / 115.
    assert '<td data-order="0.695652"><meter min="0" max="1" value="0.6957"></meter><span>69.57</span></td>' in page
    rows = re.findall(r"<tr><th>(\w)</th><td>\w+</td><td data-order=\"(\d+)\">", page)
    assert rows == [("a", "100"), ("b", "50"), ("c", "20")]  # d is neither annotated nor predicted
    assert '<td class="text">' in page
    assert "<td>25.0</td><td>1,234</td>" in page


def test_the_best_of_several_runs_is_bold_and_runs_have_headings() -> None:
    perfect = np.zeros_like(COUNTS)
    np.fill_diagonal(perfect, COUNTS.sum(axis=1))
    alone = build(reported("run", measured(COUNTS)))
    both = build(reported("run", measured(COUNTS)), reported("other", measured(perfect)))
    assert "<td><b>" not in alone
    assert 'class="run"' not in alone
    assert re.findall(r'<th class="run" colspan="\d+">(\w+)</th>', both) == ["run", "other"]
    assert "<td><b>100.00</b></td>" in both  # the other run makes no mistake
    assert "<caption>other</caption>" in both


def test_a_run_without_scores_has_its_card_alone() -> None:
    page = build_page(PageContent((reported("run", None),), "val", "data", "0", None, {}, {}, (), (), "0"))
    assert re.findall(r'<section id="(\w+)-\w+"', page) == ["card"]
    assert "<h2>Card of run</h2>" in page


def test_every_kind_of_figure_has_a_title_a_caption_and_one_place() -> None:
    places = [kind for kinds in PLACES.values() for kind in kinds]
    assert sorted(places) == sorted(FigureKind) == sorted(TITLES) == sorted(CAPTIONS)


def test_a_figure_of_one_of_several_runs_is_numbered_and_named_after_the_run() -> None:
    one, all_runs = Plot(FigureKind.TAIL, None, "rooms-2", 2), Plot(FigureKind.TAIL, None)
    assert (one.name, one.title) == ("tail-2", f"{TITLES[FigureKind.TAIL]}: rooms-2")
    assert (all_runs.name, all_runs.title) == ("tail", TITLES[FigureKind.TAIL])
