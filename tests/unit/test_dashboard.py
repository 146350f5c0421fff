"""The Grafana dashboard in examples/ asks for what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import dashboards

DOCS = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
EXPORTED = set(re.findall(r"^\| `(milo_\w+)` \|", DOCS, re.MULTILINE))
NAME = re.compile(r"\bmilo_\w+")


def test_it_shows_all_figures_and_no_others() -> None:
    """Each name of docs/metrics.md, which are the exported ones, stands in a panel."""
    asked = {name for query in dashboards.queries() for name in NAME.findall(query)}
    assert asked == EXPORTED
    assert {name for query in dashboards.variables() for name in NAME.findall(query)} <= EXPORTED


def test_no_variable_is_left() -> None:
    """The queries have no other variables than those of the dashboard."""
    assert not [query for query in dashboards.queries() if "$" in query]


def test_panels_lie_side_by_side() -> None:
    """No panel covers another, and each has an id and a title of its own."""
    panels = dashboards.panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
