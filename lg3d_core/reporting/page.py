"""HTML page of a report: one file with embedded figures and no network access."""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from lg3d_core.evaluation.table import group_table, group_values, percent
from lg3d_core.reporting.confusions import Confusion
from lg3d_core.reporting.differences import Difference
from lg3d_core.reporting.figure_kinds import PLACES, FigureKind
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.object_tables import class_precision_table, precision_table
from lg3d_core.reporting.page_cell import PageCell, sort_key
from lg3d_core.reporting.subject import ReportedRun


class PageFigure(NamedTuple):
    """Figure on the page.

    Attributes:
        kind: Kind of the figure, which determines its place.
        name: Base name of the figure's files.
        title: Heading of the figure.
        caption: Caption of the figure.
        png: PNG file as bytes.
        files: Names of the files beside the page.
    """

    kind: FigureKind
    name: str
    title: str
    caption: str
    png: bytes
    files: tuple[str, ...]


class PageContent(NamedTuple):
    """Content of the page.

    Attributes:
        runs: Runs in the order of the command line.
        split: Split that was scored.
        store: Path of the store.
        store_digest: Digest of the store's content.
        frequency: Class frequencies; None if no run has scores.
        figures: Figures; those of one kind are shown in this order.
        confusions: Most frequent confusions by the names of runs with scores.
        differences: Differences of the other runs from the first.
        notes: Remarks for the reader, one sentence each.
        version: Version of lg3d.
    """

    runs: Sequence[ReportedRun]
    split: str
    store: str
    store_digest: str
    frequency: Frequency | None
    figures: Sequence[PageFigure]
    confusions: Mapping[str, Sequence[Confusion]]
    differences: Sequence[Difference]
    notes: Sequence[str]
    version: str


def build_page(content: PageContent) -> str:
    """Return the HTML of a report. The template escapes every value; the content security policy blocks all else."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # only reports need it

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = _asset("report.css"), _asset("report.js")
    return environment.get_template("report.html").render(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        names=[run.name for run in content.runs],
        facts=_facts(content),
        notes=content.notes,
        scores=_scores(content),
        figures=_figures(content),
        categories=_categories(content),
        confusions=content.confusions,
        precisions=precision_table(content.runs),
        class_precisions=class_precision_table(content.runs, content.frequency) if content.frequency else None,
        cards=[_card(run) for run in content.runs],
        version=content.version,
    )


def _asset(name: str) -> str:
    return (resources.files("lg3d_core.reporting") / "data" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _facts(content: PageContent) -> list[str]:
    scored = [run.evaluation for run in content.runs if run.evaluation is not None]
    facts = [f"store {content.store} ({content.store_digest})"]
    if scored:
        number = scored[0].num_scenes
        facts.insert(0, f"{number} {content.split} scene{'' if number == 1 else 's'}")
        facts.append(f"{scored[0].vertex.num_present} of {len(scored[0].vertex.vocabulary)} classes annotated there")
    return facts


def _scores(content: PageContent) -> dict[str, Any] | None:
    """Return the header and the rows of each run, with marks of the best cells."""
    scored = [(run.name, run.evaluation) for run in content.runs if run.evaluation is not None]
    if not scored:
        return None
    tables = [group_table(evaluation) for _, evaluation in scored]
    best = _best_cells([[values for _, values in group_values(evaluation)] for _, evaluation in scored])
    return {
        "header": tables[0].header,
        "miou_name": scored[0][1].vertex.miou_name,
        "has_best": bool(best),
        "tables": [
            (
                name,
                [
                    (label, [(cell, (number, y, x) in best) for x, cell in enumerate(cells)])
                    for y, (label, *cells) in enumerate(table.rows)
                ],
            )
            for number, ((name, _), table) in enumerate(zip(scored, tables, strict=True))
        ],
    }


def _best_cells(tables: Sequence[Sequence[Sequence[float]]]) -> set[tuple[int, int, int]]:
    """Return run, row and column of the best values at each place, as the table rounds them; none if all are equal."""
    found = set()
    for y, rows in enumerate(zip(*tables, strict=True)):
        for x, cells in enumerate(zip(*rows, strict=True)):
            values = [-math.inf if math.isnan(value) else round(100 * value, 2) for value in cells]
            if min(values) < max(values):
                found |= {(run, y, x) for run, value in enumerate(values) if value == max(values)}
    return found


def _categories(content: PageContent) -> dict[str, Any] | None:
    """Return table 5 of the paper: IoU of every class and run."""
    scored = [(run.name, run.evaluation.vertex) for run in content.runs if run.evaluation is not None]
    if not scored or content.frequency is None:
        return None
    header = ["Class", "Group", "Training vertices", "Vertices here", *(f"IoU {name}" for name, _ in scored)]
    header += [f"{difference.name} − {difference.base}" for difference in content.differences]
    rows = []
    first = scored[0][1]
    for category in first.vocabulary.categories:
        index = category.index
        if first.support[index] == 0 and all(scores.predicted[index] == 0 for _, scores in scored):
            continue
        training, support = int(content.frequency.training[index]), int(first.support[index])
        cells = [PageCell(sort_key(number), f"{number:,}") for number in (training, support)]
        for _, scores in scored:
            iou = float(scores.iou[index]) if support else math.nan
            bar = "" if math.isnan(iou) else f"{iou:.4f}"
            cells.append(PageCell(sort_key(iou), percent(iou), is_iou=True, bar=bar))
        for difference in content.differences:
            change = float(difference.iou[index])
            cells.append(PageCell(sort_key(change), "-" if math.isnan(change) else f"{100 * change:+.2f}"))
        rows.append((category.name, category.group or "-", cells))
    return {"header": header, "rows": rows}


def _figures(content: PageContent) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of each place on the page."""
    return {
        place: [_figure(figure) for kind in kinds for figure in content.figures if figure.kind is kind]
        for place, kinds in PLACES.items()
    }


def _figure(figure: PageFigure) -> dict[str, Any]:
    pixels = int.from_bytes(figure.png[16:20], "big")
    return figure._asdict() | {
        "width": pixels * 17 // 25,  # sharp on most screens, and at most as wide as the page
        "base64": base64.b64encode(figure.png).decode("ascii"),
    }


def _card(run: ReportedRun) -> dict[str, Any]:
    return {
        "id": f"card-{hashlib.sha256(str(run.record.folder).encode()).hexdigest()[:8]}",
        "title": f"Card of {run.name}",
        "caption": f"{run.record.title}, as recorded in its folder {run.record.folder}.",
        "facts": card_facts(run),
        "record": json.dumps({"card": run.record.card, "settings": run.record.settings}, indent=2),
    }


def card_facts(run: ReportedRun) -> dict[str, str]:
    """Return the main facts about a run, as text."""
    card, settings = run.record.card, run.record.settings
    curves = run.record.curves
    store, vocabulary = _table(card, "store"), _table(card, "vocabulary")
    steps = max((int(curve.step[-1]) for curve in curves.values() if len(curve.step)), default=0)
    seconds = float(np.sum(curves["seconds"].value)) if "seconds" in curves else 0.0
    budget, anchors = _table(card, "label_budget"), _table(card, "anchors")
    facts: dict[str, object] = {
        "Command": " ".join(str(word) for word in card.get("command", ()))
        if isinstance(card.get("command"), list)
        else "",
        "Started": card.get("started"),
        "Network": settings.get("network"),
        "Voxel": f"{settings['voxel_size']} m" if "voxel_size" in settings else None,
        "Loss": settings.get("loss") or run.record.method,
        "From": card.get("from"),
        "Anchors": anchors.get("encoder"),
        "Epochs": settings.get("epochs"),
        "Steps": f"{steps:,} in {seconds / 3600:.2f} h" if steps else None,
        "Batch": card.get("effective_batch"),
        "Optimiser": f"{settings.get('optimiser', 'sgd')}, rate {settings['learning_rate']}, {settings.get('schedule')}"
        if "learning_rate" in settings
        else None,
        "Labels": f"{100 * float(budget['ratio']):g} %" if "ratio" in budget else "all",
        "Training scenes": card.get("training_scenes"),
        "Classes with labels": card.get("categories_with_labels"),
        "Vocabulary": vocabulary.get("name"),
        "Store": f"{store.get('path')} ({store.get('digest')})" if store else None,
        "Seed": settings.get("seed"),
        "Versions": ", ".join(f"{name} {version}" for name, version in _table(card, "versions").items()),
    }
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _table(card: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = card.get(name)
    return value if isinstance(value, dict) else {}
