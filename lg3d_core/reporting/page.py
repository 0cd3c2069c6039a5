"""HTML page of a report: one file with embedded figures and no network access."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from lg3d_core.evaluation.table import group_table, percent
from lg3d_core.reporting.confusions import Confusion
from lg3d_core.reporting.differences import Difference
from lg3d_core.reporting.frequency import Frequency
from lg3d_core.reporting.subject import ReportedRun

OBJECT_FIGURES = ("precision", "recall", "objects", "tail")


class PageFigure(NamedTuple):
    """Figure on the page.

    Attributes:
        name: Base name of the figure's files.
        title: Heading of the figure.
        caption: Caption of the figure.
        png: PNG file as bytes.
        files: Names of the files beside the page.
    """

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
        figures: Figures by name, in the order of the page.
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
    figures: Mapping[str, PageFigure]
    confusions: Mapping[str, Sequence[Confusion]]
    differences: Sequence[Difference]
    notes: Sequence[str]
    version: str


def build_page(content: PageContent) -> str:
    """Return the HTML of a report. All names are escaped; the content security policy blocks everything else."""
    style = _asset("report.css")
    script = _asset("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"{', '.join(run.name for run in content.runs)} · lg3d report"
    sections = [
        _summary(content),
        _scores(content),
        _figure(content, "curves"),
        _figure(content, "differences"),
        _figure(content, "frequency"),
        *(_figure(content, name) for name in content.figures if name.startswith("categories")),
        _categories(content),
        *(_figure(content, name) for name in content.figures if name.startswith("confusion")),
        _pairs(content),
        _figure(content, "features"),
        _figure(content, "rooms"),
        *(_figure(content, name) for name in content.figures if name.partition("-")[0] in OBJECT_FIGURES),
        *(_card(run) for run in content.runs),
    ]
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<footer>Made by lg3d {html.escape(content.version)}.</footer>\n</main>\n<script>{script}</script>\n"
        "</body>\n</html>\n"
    )


def _asset(name: str) -> str:
    return (resources.files("lg3d_core.reporting") / "data" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _summary(content: PageContent) -> str:
    names = " and ".join(f"<b>{html.escape(run.name)}</b>" for run in content.runs)
    scored = [run.evaluation for run in content.runs if run.evaluation is not None]
    facts = [f"store {html.escape(content.store)} ({html.escape(content.store_digest)})"]
    if scored:
        number = scored[0].num_scenes
        facts.insert(0, f"{number} {html.escape(content.split)} scene{'' if number == 1 else 's'}")
        facts.append(f"{scored[0].vertex.num_present} of {len(scored[0].vertex.vocabulary)} classes annotated there")
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in content.notes)
    return f"<header><h1>{names}</h1><p>{'; '.join(facts)}</p>{notes}</header>"


def _scores(content: PageContent) -> str:
    scored = [(run.name, run.evaluation) for run in content.runs if run.evaluation is not None]
    if not scored:
        return ""
    table = group_table(scored[0][1])
    body = []
    best = _best_cells([group_table(evaluation).rows for _, evaluation in scored]) if len(scored) > 1 else set()
    for number, (name, evaluation) in enumerate(scored):
        if len(scored) > 1:
            body.append(f'<tr><th class="run" colspan="{len(table.header)}">{html.escape(name)}</th></tr>')
        for y, (label, *cells) in enumerate(group_table(evaluation).rows):
            marked = (f"<b>{cell}</b>" if (number, y, x) in best else cell for x, cell in enumerate(cells))
            body.append(f"<tr><th>{html.escape(label)}</th>{''.join(f'<td>{cell}</td>' for cell in marked)}</tr>")
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    return _section(
        "scores",
        "Scores by split",
        f"In percent, as lg3d eval prints them. {scored[0][1].vertex.miou_name} counts a class without ground "
        "truth as 0, as the paper does; miou_present skips it. Compare the last row with the paper's tables."
        + (" The best run in each row of figures is in bold." if best else ""),
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{"".join(body)}</tbody></table></div>',
    )


def _best_cells(tables: Sequence[Sequence[Sequence[str]]]) -> set[tuple[int, int, int]]:
    """Return run, row and column of the best cells of each row; empty if all runs are equal."""
    found = set()
    for y, rows in enumerate(zip(*tables, strict=True)):
        for x, cells in enumerate(zip(*(row[1:] for row in rows), strict=True)):
            values = [-math.inf if cell == "-" else float(cell) for cell in cells]
            if min(values) < max(values):
                found |= {(run, y, x) for run, value in enumerate(values) if value == max(values)}
    return found


def _categories(content: PageContent) -> str:
    """Return table 5 of the paper: IoU of every class and run."""
    scored = [(run.name, run.evaluation.vertex) for run in content.runs if run.evaluation is not None]
    if not scored or content.frequency is None:
        return ""
    heads = ["Category", "Group", "Training vertices", "Vertices here", *(f"IoU {name}" for name, _ in scored)]
    heads += [f"{difference.name} − {difference.base}" for difference in content.differences]
    rows = []
    first = scored[0][1]
    for category in first.vocabulary.categories:
        index = category.index
        if first.support[index] == 0 and all(scores.predicted[index] == 0 for _, scores in scored):
            continue
        training, support = int(content.frequency.training[index]), int(first.support[index])
        cells = [
            f"<th>{html.escape(category.name)}</th>",
            f"<td>{html.escape(category.group or '-')}</td>",
            _number(training, f"{training:,}"),
            _number(support, f"{support:,}"),
        ]
        for _, scores in scored:
            iou = float(scores.iou[index]) if support else math.nan
            bar = "" if math.isnan(iou) else f'<meter min="0" max="1" value="{iou:.4f}"></meter>'
            cells.append(_number(iou, f"{bar}<span>{percent(iou)}</span>"))
        for difference in content.differences:
            change = float(difference.iou[index])
            cells.append(_number(change, "-" if math.isnan(change) else f"{100 * change:+.2f}"))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f'<th><button type="button">{html.escape(name)}</button></th>' for name in heads)
    return _section(
        "per-category",
        "IoU by class",
        "At vertices, in percent (the paper's Table 5). Classes that are neither annotated in these scenes nor "
        "predicted are omitted. Click a heading to sort.",
        f'<div class="wide tall"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>",
    )


def _number(value: float, text: str) -> str:
    order = "" if math.isnan(value) else f"{value:.6g}"
    return f'<td data-order="{order}">{text}</td>'


def _pairs(content: PageContent) -> str:
    parts = []
    for name, pairs in content.confusions.items():
        rows = "".join(
            f"<tr><th>{html.escape(pair.truth)}</th><td class='text'>{html.escape(pair.predicted)}</td>"
            f"<td>{100 * pair.share:.1f}</td><td>{pair.vertices:,}</td></tr>"
            for pair in pairs
        )
        caption = f"<caption>{html.escape(name)}</caption>" if len(content.confusions) > 1 else ""
        parts.append(
            f"<table>{caption}<thead><tr><th>Annotated</th><th class='text'>Predicted</th><th>% of annotated</th>"
            f"<th>Vertices</th></tr></thead><tbody>{rows}</tbody></table>"
        )
    if not parts:
        return ""
    return _section(
        "pairs",
        "Most confused pairs",
        "Sorted by the share of the annotated class's vertices, since every class counts equally in mIoU. Classes "
        "with less than 0.05 % of the annotated vertices are omitted.",
        f'<div class="beside">{"".join(parts)}</div>',
    )


def _figure(content: PageContent, name: str) -> str:
    figure = content.figures.get(name)
    if figure is None:
        return ""
    data = base64.b64encode(figure.png).decode("ascii")
    links = ", ".join(f'<a href="{html.escape(file)}">{html.escape(file)}</a>' for file in figure.files)
    width = (
        int.from_bytes(figure.png[16:20], "big") * 17 // 25
    )  # sharp on most screens, and at most as wide as the page
    return _section(
        figure.name,
        figure.title,
        figure.caption,
        f'<figure><img width="{width}" alt="{html.escape(figure.title)}: {html.escape(figure.caption)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{links}</figcaption></figure>',
    )


def _card(run: ReportedRun) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td class='text'>{html.escape(value)}</td></tr>"
        for name, value in card_facts(run).items()
    )
    raw = {"card": run.record.card, "settings": run.record.settings}
    return _section(
        f"card-{hashlib.sha256(str(run.record.folder).encode()).hexdigest()[:8]}",
        f"Card of {run.name}",
        f"{run.record.title}, as recorded in its folder {run.record.folder}.",
        f"<table>{'<tbody>' + rows + '</tbody>'}</table>"
        f"<details><summary>Full record (JSON)</summary><pre>{html.escape(json.dumps(raw, indent=2))}</pre></details>",
    )


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


def _section(name: str, title: str, caption: str, body: str) -> str:
    return (
        f'<section id="{html.escape(name)}"><h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p>{body}</section>'
    )
