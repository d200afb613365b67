"""Ten thousand requests that nobody would send by accident, and a thousand pages that a real Prometheus scrapes."""

import secrets
from pathlib import Path

import pytest

from tests.fuzz.campaign import Summary, run
from tests.fuzz.hits import MAX_SERIES
from tests.fuzz.scraping import scrape

INPUTS = 10_000
PAGES = 1_000


@pytest.fixture(scope="module")
def summary() -> Summary:
    summary = run(INPUTS, PAGES, seed_=secrets.randbits(32))
    print(f"\n{summary}")
    return summary


def test_every_page_is_read_and_counts_every_request_once(summary: Summary) -> None:
    # What is right about each page was asserted when it was made; here, that it was not too easy.
    assert summary.inputs == INPUTS
    assert summary.pages == len(summary.kept) == summary.restricted == summary.other_pages.total() == PAGES
    assert summary.registries == INPUTS / 100
    assert summary.different > INPUTS * 0.9
    assert summary.most_series == max(MAX_SERIES) + 1
    assert summary.overflown > INPUTS / 10
    assert len(summary.label_sets) > PAGES / 5
    assert summary.exemplars > PAGES
    assert len(summary.endings) == 11
    assert len(summary.other_pages) >= 3


def test_a_real_prometheus_scrapes_a_thousand_pages_without_a_failure(summary: Summary, tmp_path: Path) -> None:
    scraped = scrape(summary.kept, tmp_path)
    print(f"\n{scraped}")

    assert scraped.pages == PAGES
    assert scraped.failed == []
    assert scraped.miscounted == []
    assert not any(scraped.dropped.values()), scraped.dropped
    assert scraped.exemplars > PAGES
