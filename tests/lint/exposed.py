"""Which metrics a page has, and with which labels."""

from prometheus_client.parser import text_string_to_metric_families


def metrics(page: str) -> dict[str, set[str]]:
    """Of a page in plain text: the names of its samples, each with all labels that some of them have.

    An empty label is one too: that is how a page says that it has none to tell.
    """
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found
