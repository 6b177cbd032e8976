"""The sections of the report, each made of what ``Run`` holds; a section without content is left out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pet.visualization.report.charts import charts_of, split_name
from pet.visualization.report.html import Html, data_script, duration, element, file_size, folded, join, number, table
from pet.visualization.report.images import Embedded, embed_all
from pet.visualization.report.run import Run

_HERE = Path(__file__).parent
_MOST_CLASSES, _MOST_FILES = 300, 200
# What a picture shows, by the end of its name.
_SHOWN = {
    "labels": "What there is to learn from: how much of each class, and where and how large the objects are.",
    "train_samples": "First training pictures after all transforms, as the model sees them.",
    "train_samples_2": "The training pictures that follow.",
    "train_samples_3": "The training pictures that follow.",
    "predictions": "Ground truth and predictions of pictures spread over the data set.",
    "proposals": "The regions that the first stage proposes.",
    "classes": "Predicted class of pictures spread over the data set.",
    "semseg": "Class of every pixel: ground truth and prediction.",
    "panoptic": "Segments: ground truth and prediction.",
    "confusion": "What each class was taken for: rows are the ground truth, columns the predictions.",
    "confusion_semseg": "What the pixels of each class were taken for, per mille.",
    "precision_recall": "How many of the findings are right (up) when so many of the objects are found (across).",
    "f1": "Harmonic mean of precision and recall over the score that is needed: its peak is a good threshold.",
    "roc": "True over false positive rate of each class against the rest.",
}


def build_page(run: Run) -> Html:
    """The whole page."""
    sections = [(name, title, make(run)) for name, title, make in _SECTIONS]
    sections = [(name, title, content) for name, title, content in sections if content]
    links = element("nav", element("div", *(element("a", title, href=f"#{name}") for name, title, _ in sections)))
    body = [element("section", element("h2", title, id=name), content) for name, title, content in sections]
    charts = charts_of(run.rows, str(run.best.get("metric", "")))
    styles = Html((_HERE / "report.css").read_text(encoding="utf-8"))
    script = Html((_HERE / "report.js").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{run.folder.resolve().name}: report"),
        element("style", styles),
    )
    footer = element("footer", f"Written by Pet on {time.strftime('%Y-%m-%d %H:%M:%S')} from the files in {run.folder.resolve()}")
    parts = [_header(run), links, element("main", *body), footer, data_script("curves-data", charts), element("script", script)]
    return Html("<!DOCTYPE html>\n") + element("html", head, element("body", *parts), lang="en")


# ----------------------------------------------------------------------------------------------------------- summary


def _header(run: Run) -> Html:
    kind, reason = run.status()
    started = f"started {run.start['started']}" if "started" in run.start else ""
    command = run.start.get("command") or run.test.get("command", "")
    unreadable = [element("p", f"Could not be read: {text}", class_="note") for text in run.unreadable]
    return element(
        "header",
        element("h1", run.folder.resolve().name, element("span", kind, class_=f"badge {kind}")),
        element("p", "; ".join(filter(None, (reason, started))), class_="sub"),
        element("p", element("code", command), class_="sub") if command else "",
        *unreadable,
        element(
            "div", *(element("div", element("b", v), element("span", t), class_="tile") for t, v in _tiles(run)), class_="tiles"
        ),
    )


def _tiles(run: Run) -> list[tuple[str, str]]:
    """Title and value of the numbers that are looked for first."""
    tiles: list[tuple[str, str]] = []
    if run.best:
        tiles.append(
            (f"best {run.best.get('metric')}, update {number(run.best.get('iteration'))}", number(run.best.get("value")))
        )
    if run.evaluations:
        last = run.evaluations[-1]
        metric = str(run.best.get("metric") or next(iter(last["eval"])))
        found = [value for name, value in last["eval"].items() if metric in (name, split_name(name)[1])]
        tiles.append((f"last {metric}, update {number(last['iteration'])}", number(found[0] if found else None)))
    tests = list((run.test.get("eval") or {}).items())
    wanted = str(run.best.get("metric", ""))
    chosen = [item for item in tests if wanted in (item[0], split_name(item[0])[1])] or tests
    tiles += [("test {1} on {0}".format(*split_name(name)), number(value)) for name, value in chosen[:1]]
    if run.rows:
        row = run.rows[-1]
        epochs = f", epoch {row['epoch']:g}" if row.get("epoch") else ""
        tiles.append((f"updates{epochs}", number(row["iteration"])))
        losses = [row["total_loss"] for row in run.rows if isinstance(row.get("total_loss"), int | float)]
        tiles += [("last total loss", number(losses[-1]))] if losses else []
    seconds, speed = run.seconds(), run.images_per_second()
    tiles += [("training", duration(seconds))] if seconds is not None else []
    tiles += [("training pictures a second", number(speed))] if speed else []
    return tiles


# ------------------------------------------------------------------------------------------------- curves and numbers


def _curves(run: Run) -> Html:
    count = len(charts_of(run.rows, str(run.best.get("metric", ""))))
    if not count:
        return Html()
    text = "The curves need JavaScript; vis/curves.png shows them as a picture."
    without = element("noscript", element("p", text, class_="note"))
    return join([without, element("div", *(element("figure", class_="chart") for _ in range(count)), class_="charts")])


def _results(run: Run) -> Html:
    evaluations = run.evaluations
    if not evaluations:
        return element("p", "Nothing was evaluated.", class_="faint") if run.rows else Html()
    names = list(dict.fromkeys(name for row in evaluations for name in row["eval"]))
    rows = []
    for name in names:
        values = [(row["eval"].get(name), row["iteration"]) for row in evaluations]
        known = [(value, at) for value, at in values if isinstance(value, int | float)]
        highest = max(known, key=lambda pair: pair[0], default=(None, None))
        dataset, metric = split_name(name)
        rows.append((dataset, metric, number(values[-1][0]), number(highest[0]), number(highest[1])))
    titles = ("data set", "metric", f"update {evaluations[-1]['iteration']:,}", "highest", "at update")
    return join([table(titles, rows, 2), _class_tables(run.classes)])


def _class_tables(record: dict[str, Any]) -> Html:
    """Numbers of each class, as ``classes.json`` and the metrics of a test hold them."""
    tables = record.get("classes") or {}
    moment = f", update {record['iteration']:,}" if isinstance(record.get("iteration"), int) else ""
    return join(_class_table(name, columns, moment) for name, columns in tables.items() if isinstance(columns, dict) and columns)


def _class_table(name: str, columns: dict[str, list[Any]], moment: str) -> Html:
    titles = list(columns)
    rows = list(zip(*columns.values(), strict=False))
    note = Html()
    if len(rows) > _MOST_CLASSES:
        chosen = f"{_MOST_CLASSES} lowest {titles[1]}" if titles[1:] else f"first {_MOST_CLASSES}"
        note = element("p", f"The {chosen} of {len(rows):,} classes.", class_="faint")
        rows = sorted(rows, key=lambda row: [math.inf if value is None else value for value in row[1:2]])[:_MOST_CLASSES]
    cells = [[row[0], *map(number, row[1:])] for row in rows]
    return join([element("h3", f"{name}: each class{moment}"), note, table(titles, cells, 1, class_="sortable")])


def _test(run: Run) -> Html:
    if not run.test:
        return Html()
    results = run.test.get("eval") or {}
    rows = [(*split_name(name), number(value)) for name, value in results.items()]
    none = element("p", "No metrics were asked for.", class_="faint")
    found = table(("data set", "metric", "result"), rows, 2) if rows else none
    weights = element("p", "Weights: ", element("code", run.test.get("weights", "unknown")))
    return join([weights, found, _class_tables(run.test)])


# ----------------------------------------------------------------------------------------------------------- pictures


def _pictures(run: Run) -> Html:
    # The curves are there already, and better.
    pictures, size = embed_all([path for path in run.pictures() if path.relative_to(run.folder).as_posix() != "vis/curves.png"])
    if not pictures:
        return Html()
    shown = [picture for picture in pictures if picture.uri]
    left_out = [picture for picture in pictures if not picture.uri]
    text = f"{len(shown)} pictures, {file_size(size)} in this page; a click opens the file in full size."
    more = [
        element("p", f"{len(left_out)} more are not in this page, which would become too large, or cannot be read: "),
        element("ul", *(element("li", _link(run.folder, picture.path)) for picture in left_out[:_MOST_FILES])),
    ]
    gallery = element("div", *(_picture(run.folder, picture) for picture in sorted(shown, key=_place)), class_="gallery")
    return join([element("p", text, class_="faint"), gallery, *(more if left_out else [])])


def _place(picture: Embedded) -> tuple[bool, int, str]:
    """The test after the training, then what the data are, then results."""
    kinds = list(_SHOWN)
    kind = _kind(picture.path)
    return "test" in picture.path.parts[-3:], kinds.index(kind) if kind in kinds else len(kinds), picture.path.name


def _kind(path: Path) -> str:
    """The longest known end of the name of a picture."""
    ends = [kind for kind in _SHOWN if path.stem == kind or path.stem.endswith(f"_{kind}")]
    return max(ends, key=len, default="")


def _picture(folder: Path, picture: Embedded) -> Html:
    name = picture.path.relative_to(folder).as_posix()
    image = element("img", src=picture.uri, alt=name, width=picture.width, height=picture.height)
    caption = element("figcaption", element("b", name), " ", element("span", _SHOWN.get(_kind(picture.path), ""), class_="faint"))
    return element("figure", caption, element("a", image, href=quote(name)))


# ----------------------------------------------------------------------------------------- data, troubles, environment


def _data(run: Run) -> Html:
    text = run.start.get("data", "")
    return element("pre", text) if text else Html()


def _troubles(run: Run) -> Html:
    parts = [
        element(
            "div",
            element(
                "span",
                f"{trouble.first} {trouble.level}{f', {trouble.times} times' if trouble.times > 1 else ''}",
                class_="faint",
            ),
            element("div", trouble.text),
            class_=f"trouble {trouble.level}",
        )
        for trouble in run.troubles
    ]
    if not parts and not run.starts:
        return Html()
    return join([*parts] or [element("p", "No warning and no error in the logs.", class_="faint")])


def _starts(run: Run) -> Html:
    if len(run.starts) < 2:
        return Html()
    keys = ("started", "ended", "status", "reason", "updates")
    rows = [[start.get(key, "\u2013") for key in keys] for start in run.starts]
    return table([*keys[:-1], "last update"], rows, 4)


def _configuration(run: Run) -> Html:
    changed = [row for row in run.start.get("changed", []) if isinstance(row, list) and len(row) == 4]
    rows = [
        (element("code", key), element("code", value), element("code", default), origin)
        for key, default, value, origin in changed
    ]
    parts: list[Html] = [table(("key", "value", "default", "set by"), rows, class_="changes")] if rows else []
    if run.config:
        parts.append(folded("config.yaml, all values", element("pre", run.config), class_="long"))
    return join(parts)


def _environment(run: Run) -> Html:
    start = run.start
    lines = [f"command: {start['command']}"] if "command" in start else []
    lines += [f"host {start.get('host')}, process {start.get('pid')}"] if start else []
    lines += [str(line) for line in start.get("environment", [])]
    return element("pre", "\n".join(lines)) if lines else Html()


def _hooks(run: Run) -> Html:
    hooks, total = run.start.get("hooks", {}), run.start.get("seconds", 0)
    if not hooks or not total:
        return Html()
    rows = [(name, f"{seconds:.2f}", f"{100 * seconds / total:.1f}") for name, seconds in hooks.items() if seconds >= 0.005]
    rest = total - sum(hooks.values())
    rows.append(("everything else: data, forward, backward, update", f"{rest:.2f}", f"{100 * rest / total:.1f}"))
    return table(("hook", "seconds", "percent"), rows, 1)


def _files(run: Run) -> Html:
    tops = [top for top in sorted(run.folder.iterdir()) if not top.name.startswith("previous_")]
    inside = [path for top in tops for path in sorted([top, *top.rglob("*")])]
    own = [path for path in inside if path.is_file() and path.name != "report.html"]
    if not own:
        return Html()
    rows = [(_link(run.folder, path), file_size(path.stat().st_size)) for path in own[:_MOST_FILES]]
    more = element("p", f"and {len(own) - _MOST_FILES:,} more", class_="faint") if len(own) > _MOST_FILES else Html()
    return join([table(("file", "size"), rows, 1), more])


def _link(folder: Path, path: Path) -> Html:
    name = path.relative_to(folder).as_posix()
    return element("a", name, href=quote(name))


_SECTIONS: tuple[tuple[str, str, Callable[[Run], Html]], ...] = (
    ("curves", "Curves", _curves),
    ("results", "Results", _results),
    ("test", "Test", _test),
    ("pictures", "Pictures", _pictures),
    ("data", "Data", _data),
    ("troubles", "Warnings", _troubles),
    ("starts", "Starts", _starts),
    ("configuration", "Configuration", _configuration),
    ("environment", "Environment", _environment),
    ("hooks", "Time in hooks", _hooks),
    ("files", "Files", _files),
)
