"""The section of the page of benchmarks about what the figures for Prometheus cost."""

from __future__ import annotations

import pytest

from tests.bench import scrape_bench
from tests.bench.report import COMPARISON, SCRAPES, kept, put
from tests.bench.scrape_bench import Cost, section

PAGE = f"# Benchmarks\n\n## Memory\n\nfigures\n{COMPARISON}\ncompared\n"


@pytest.mark.parametrize(("scraped", "verdict"), [(2.39, "is met."), (2.4, "is **not met**.")])
def test_a_target_is_met_or_missed(scraped: float, verdict: str) -> None:
    """The medians of the rounds are compared, not single ones."""
    text = section(Cost(100, [1.0, 1.4, 9.0], [scraped, 0.1, 9.0], 630_000, 0.25), 0.5)
    assert verdict in text
    more = scraped - 1.4
    assert f"| 100 | 1.40 % | {scraped:.2f} % | {more:.2f} % | 630 KB | 250 ms |" in text


def test_the_section_has_its_place_at_the_end() -> None:
    """It replaces itself alone, and the other benches keep it."""
    once = put(PAGE, SCRAPES, f"{SCRAPES}\nfirst\n")
    assert once == f"{PAGE}{SCRAPES}\nfirst\n"
    assert put(once, SCRAPES, f"{SCRAPES}\nsecond\n") == f"{PAGE}{SCRAPES}\nsecond\n"
    assert kept(once) == once[once.index(COMPARISON) :]
    assert section(Cost(100, [1.0], [1.1], 1, 0.1), 0.5).startswith(f"{SCRAPES.lstrip()}\nKept")
    assert scrape_bench.MOST_PERCENT == 1
