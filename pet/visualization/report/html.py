"""HTML from Python values: whatever is not ``Html`` already is escaped, so no text of a run can become markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from pet.utils.files import finite

_EMPTY = ("img", "meta")  # elements without an end tag


class Html(str):
    """Text that is markup."""

    __slots__ = ()


def escaped(value: Any) -> Html:
    """A value as text of a page; ``Html`` stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[Any], between: str = "") -> Html:
    """Parts one after another."""
    return Html(between.join(escaped(part) for part in parts))


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element.

    Args:
        name: of the element.
        children: texts, which are escaped, and elements.
        attributes: ``class_`` for class, ``data_x`` for data-x; ``True`` stands for one without a value, ``None`` and
            ``False`` for none.
    """
    written = []
    for key, value in attributes.items():
        title = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {title}")
        elif value is not None and value is not False:
            written.append(f' {title}="{html.escape(str(value))}"')
    opening = f"<{name}{''.join(written)}>"
    return Html(opening if name in _EMPTY else f"{opening}{join(children)}</{name}>")


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]], numbers: int | None = None, **attributes: Any) -> Html:
    """A table in a box that scrolls by itself.

    Args:
        titles: of the columns.
        rows: cells.
        numbers: from which column on cells are numbers, written to the right; ``None``: none is.
        attributes: of the table.
    """
    first = len(titles) if numbers is None else numbers
    kinds = [{} if place < first else {"class_": "n"} for place in range(len(titles))]
    head = element("tr", *(element("th", title, **kind) for title, kind in zip(titles, kinds, strict=True)))
    body = [element("tr", *(element("td", cell, **kind) for cell, kind in zip(row, kinds, strict=True))) for row in rows]
    whole = element("table", element("thead", head), element("tbody", *body), **attributes)
    return element("div", whole, class_="scroll")


def folded(title: Any, *children: Any, **attributes: Any) -> Html:
    """What is shown after a click on its title."""
    return element("details", element("summary", title), *children, **attributes)


def data_script(name: str, content: Any) -> Html:
    """Plain values that a script of the page reads; NaN and infinity become null."""
    text = json.dumps(finite(content), separators=(",", ":"), allow_nan=False)
    # Inside a script element only "<" could end it.
    safe = text.replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{safe}</script>')


def number(value: Any) -> str:
    """A number for people; a dash where there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return "\u2013"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, or minutes and seconds."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{seconds:.1f} s"


def file_size(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
