"""Recording rules and burn-rate alerts for Prometheus, from objectives of availability and latency.

Nothing is read or written here: `Objectives` are checked, `groups` are the rules as data, `text` is the file of them.

What is counted, per scrape job. A request whose client left counts nowhere: it was neither good nor bad.
- *availability*: all others; bad are those that answered 5xx, raised, or ended incomplete.
- *latency*: those of the others that are not bad; bad are the ones that took longer than the bound. A failed request
  burns its budget there already, and a fast refusal is no fast answer.
"""

from exemplars.rules.file import text
from exemplars.rules.groups import groups, out_of_reach
from exemplars.rules.objectives import Latency, Objectives, bounds, latency, percent
from exemplars.semconv import DURATION_BUCKETS as DEFAULT_BUCKETS

__all__ = ["DEFAULT_BUCKETS", "Latency", "Objectives", "bounds", "groups", "latency", "out_of_reach", "percent", "text"]
