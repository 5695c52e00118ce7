"""Pages of HTML: one file each, without script, that asks the network for nothing.

Every value is escaped by the templates; a strict Content-Security-Policy holds even if
one were not. Sorting is done by styles: each row has its place for each order.
"""

import base64
import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from brainchop_pipe.core.outliers import OUTLIER_BEYOND
from brainchop_pipe.report.content import Distribution, GroupPage, GroupRow, ParticipantPage

# With more the page of the group would weigh tens of megabytes.
MOST_PICTURES = 250

# With more each dot hides its neighbours; then only those far from the others are drawn.
_MOST_DOTS = 400

_PLOT_WIDTH, _PLOT_HEIGHT, _BINS = 300.0, 60.0, 30


def participant_html(page: ParticipantPage) -> bytes:
    """Write a participant's page."""
    return _render("participant.html", page=page, style=Markup(_style()), policy=_policy(_style()))


def group_html(page: GroupPage) -> bytes:
    """Write the page of all images, whose rows are in their order."""
    sortings = ["worst first", "name", *page.columns]
    style = _style() + "".join(
        f"body:has(#sort-{place}:checked) table.group tbody tr {{ order: var(--o{place}); }}\n"
        for place in range(len(sortings))
    )
    statuses = [row.status for row in page.rows]
    return _render(
        "group.html",
        page=page,
        style=Markup(style),
        policy=_policy(style, with_attributes=True),
        sortings=sortings,
        rows=_ordered_rows(page.rows, len(page.columns)),
        plots=[_plot(distribution) for distribution in page.distributions if distribution.points],
        pictures=MOST_PICTURES,
        failed=statuses.count("failed"),
        missing=statuses.count("missing"),
        flagged=sum(bool(row.flags) for row in page.rows),
        limit=OUTLIER_BEYOND,
    )


def page_address(name: str) -> str:
    """Give the relative address of a file beside a page, whatever is in its name."""
    return "./" + quote(name)


@dataclass(frozen=True)
class _OrderedRow:
    """A row, its places in the orders, and the height of its picture."""

    row: GroupRow
    order: str
    height: int


def _ordered_rows(rows: tuple[GroupRow, ...], columns: int) -> list[_OrderedRow]:
    """Give each row its place by each column, as custom properties of its style; largest values first."""
    worst = list(range(len(rows)))
    by_name = _places([row.image for row in rows])
    by_column = [
        _places([-value if (value := row.values[c]) is not None else np.inf for row in rows])
        for c in range(columns)
    ]
    ordered = []
    for at, row in enumerate(rows):
        places = [order[at] for order in (worst, by_name, *by_column)]
        order = ";".join(f"--o{n}:{place}" for n, place in enumerate(places))
        ordered.append(_OrderedRow(row, order, _height(row.thumbnail)))
    return ordered


def _places(keys: list[Any]) -> list[int]:
    """Give the place of each entry in the order of their keys."""
    places = [0] * len(keys)
    for place, at in enumerate(sorted(range(len(keys)), key=lambda n: keys[n])):
        places[at] = place
    return places


def _height(png: bytes | None) -> int:
    """Read the height of a picture from its header, pixels; 0 without one."""
    return int(struct.unpack(">I", png[20:24])[0]) if png else 0


def _plot(distribution: Distribution) -> dict[str, Any]:
    """Give what a plot is drawn of: bars of a histogram, and dots below it."""
    values = np.array([point[0] for point in distribution.points])
    low, high = float(values.min()), float(values.max())
    width = max(high - low, 1e-9)
    counts, _ = np.histogram(values, bins=_BINS, range=(low, low + width))
    step = _PLOT_WIDTH / _BINS
    heights = counts / max(counts.max(), 1) * (_PLOT_HEIGHT - 4)
    few = len(values) <= _MOST_DOTS
    return {
        "name": distribution.name,
        "unit": distribution.unit,
        "count": len(values),
        "low": _short(low),
        "high": _short(high),
        "median": _short(float(np.median(values))),
        "bars": [
            {
                "x": round(n * step + 0.5, 1),
                "y": round(_PLOT_HEIGHT - height, 1),
                "width": step - 1,
                "height": round(height, 1),
            }
            for n, height in enumerate(heights)
            if height
        ],
        "dots": [
            {
                "x": round(4 + (value - low) / width * (_PLOT_WIDTH - 8), 1),
                "y": 69,
                "page": address,
                "title": f"{image}: {_short(value)} {distribution.unit}",
                "outlier": is_outlier,
            }
            for value, image, address, is_outlier in distribution.points
            if few or is_outlier
        ],
    }


def _render(template: str, **values: Any) -> bytes:
    return _environment().get_template(template).render(**values).encode()


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("brainchop_pipe.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "short": _short}
    return environment


@cache
def _style() -> str:
    loader = _environment().loader
    return "" if loader is None else loader.get_source(_environment(), "style.css")[0]


def _policy(style: str, *, with_attributes: bool = False) -> str:
    """Allow pictures within the page and its own styles, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    attributes = "'unsafe-inline'" if with_attributes else "'none'"
    return (
        f"default-src 'none'; img-src data:; style-src-elem 'sha256-{digest}'; style-src-attr {attributes}; "
        "base-uri 'none'; form-action 'none'"
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _short(value: float | None) -> str:
    """Give a number with three or four figures; n/a for none."""
    if value is None:
        return "n/a"
    magnitude = abs(value)
    return f"{value:.0f}" if magnitude >= 100 or value == int(value) else f"{value:.3g}"
