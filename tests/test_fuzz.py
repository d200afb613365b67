"""Ten thousand requests that nobody would send by accident, and a thousand pages that a real Prometheus scrapes."""

import pytest

from tests.fuzz.campaign import Page, Summary, run, spread
from tests.fuzz.hits import APPS, MAX_SERIES
from tests.fuzz.scraping import scrape

INPUTS = 10_000
PAGES = 1_000


@pytest.fixture(scope="module")
def summary() -> Summary:
    summary = run(INPUTS)
    print(f"\n{summary}")
    return summary


def test_every_page_is_read_and_counts_every_request_once(summary: Summary) -> None:
    # What is right about each page was asserted when it was made; here, that it was not too easy.
    assert summary.inputs == INPUTS
    assert len(summary.pages) == PAGES
    assert summary.registries >= INPUTS / 100
    assert summary.most_series == max(MAX_SERIES) + 1
    assert summary.overflown > INPUTS / 10
    assert len(summary.label_sets) > PAGES / 10
    assert summary.exemplars > PAGES
    assert len(summary.endings) == 11
    assert len(summary.other_pages) >= 3
    assert summary.apps.keys() == set(APPS)


def test_a_real_prometheus_scrapes_a_thousand_pages_without_a_failure(
    summary: Summary, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scraped = scrape(spread(summary.pages, PAGES), tmp_path_factory.mktemp("prometheus"))
    print(f"\n{scraped}")

    assert scraped.pages == PAGES
    assert scraped.failed == []
    assert scraped.miscounted == []
    assert not any(scraped.dropped.values()), scraped.dropped
    assert scraped.exemplars > PAGES


def test_pages_are_spread_over_all_there_are() -> None:
    pages = [Page(b"", number) for number in range(10)]

    assert [page.samples for page in spread(pages, 4)] == [0, 2, 5, 7]
    assert spread(pages, 20) == pages
