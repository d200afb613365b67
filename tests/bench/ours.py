"""Our own contenders: the same middleware, with what its exemplar slots meet at a request."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry

from exemplars import Policy, metrics

from . import byhand
from .subject import App, Setting, Subject, read

OURS: Final = "exemplars"
MARK_ALL: Final = f"{OURS}, each taken and marked"
COLD: Final = f"{OURS}, cold"
ALL_NEW: Final = f"{OURS}, every exemplar new"

# A slot is fresh while its retention lasts: here longer than any run, or shorter than any request.
FRESH: Final = Policy(min_retention=3600.0, max_age=3600.0)
EXPIRED: Final = Policy(min_retention=1e-6)
# One that may be replaced at every observation, and is shown however long a run takes.
LASTING: Final = Policy(min_retention=1e-6, max_age=3600.0)

# An exemplar's timestamp is a millisecond newer than the one before, and runs at most a second ahead of the clock: so
# many requests to one series in a block do not use that second up before its next block.
REQUESTS_A_SERIES: Final = 45


class Variant(NamedTuple):
    """Options of ours, and the shares of requests between which those must lie whose exemplar is taken."""

    options: Mapping[str, Any]
    taken: tuple[float, float]


VARIANTS: Final[Mapping[str, Variant]] = {
    f"{OURS}, fresh": Variant({"policy": FRESH}, (0.0, 0.5)),
    f"{OURS}, fresh, no marks": Variant({"policy": FRESH, "marks_per_second": 0.0}, (0.0, 0.5)),
    f"{OURS}, expired": Variant({"policy": EXPIRED}, (0.0, 1.0)),
    f"{OURS}, expired, no marks": Variant({"policy": EXPIRED, "marks_per_second": 0.0}, (0.9, 1.0)),
    MARK_ALL: Variant({"policy": EXPIRED, "marks_per_second": 1e9}, (0.9, 1.0)),
}
UNSAMPLED: Final = Variant({}, (0.0, 0.0))


def subjects(wrap: Callable[..., App], setting: Setting, block: int, **options: Any) -> list[Subject]:
    """Ours, as *wrap* makes it from options: in every variant for a sampled span, which alone can be an exemplar."""
    variants = VARIANTS if setting.span == "sampled" else {OURS: UNSAMPLED}
    return [_subject(name, wrap, setting, block, options, variant) for name, variant in variants.items()]


def _subject(
    name: str, wrap: Callable[..., App], setting: Setting, block: int, options: Mapping[str, Any], variant: Variant
) -> Subject:
    policy = variant.options.get("policy")
    copies = -(-block // (setting.routes * REQUESTS_A_SERIES)) if policy is EXPIRED else 1
    registries = [CollectorRegistry() for _ in range(copies)]
    return Subject(
        name,
        [wrap(registry=registry, **options, **variant.options) for registry in registries],
        lambda: read(registries, f"{byhand.DURATION}_count", "http_route"),
        exemplars=True,
        filled=policy is FRESH,
        taken=lambda: metrics.taken.total,
        share=variant.taken,
    )
