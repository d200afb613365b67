"""The way of a dot, from the request that a bucket remembers to the trace in Tempo, and where on it dots are lost."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard, stat, timeseries
from grafana_foundation_sdk.models import units

from . import board, links, panels
from .panels import GREEN, ORANGE, RED, fixed
from .promql import JOB, RANGE, STEP, legend, query, rate, total

SERVER: Final = 'instance=~"$prometheus"'
COLLECTOR: Final = 'instance=~"$collector"'
TSDB: Final = "prometheus_tsdb_exemplar"
STORED: Final = f"{TSDB}_exemplars_in_storage{{{SERVER}}}"
ROOM: Final = f"{TSDB}_max_exemplars{{{SERVER}}}"
# The time of the oldest exemplar, in spite of its name; 0 while there is none.
OLDEST: Final = f"{TSDB}_last_exemplars_timestamp_seconds{{{SERVER}}}"
WAITING: Final = f"otelcol_processor_tail_sampling_sampling_traces_on_memory{{{COLLECTOR}}}"
SAMPLING: Final = "processor_tail_sampling"
MARK_POLICY: Final = 'policy=~"(.*[.])?exemplar", decision="sampled"'

NO_PROMETHEUS: Final = "Prometheus does not scrape itself"
NO_COLLECTOR: Final = "no Collector is scraped"


def collectors(name: str, *labels: str, where: str = "") -> str:
    """A counter of the Collector's, per second, which ends in `_total` or not, as its `without_type_suffix` says.

    Zero where the Collector has not counted any yet, as it shows nothing before it has.
    """
    named = f'__name__=~"otelcol_({name})(_total)?"'
    counted = total(f"rate({{{', '.join(filter(None, (named, COLLECTOR, where)))}}}[{STEP}])", *labels)
    return counted if labels else f"{counted} or 0 * sum({WAITING})"


def happened(metric: str, matchers: str) -> str:
    """How often, over the whole time range."""
    return f"increase({metric}{{{matchers}}}[{RANGE}])"


def by_kind(metric: str, kind: str) -> str:
    """How often a second, of each kind that happened; where none did, a zero for the service."""
    series = rate(metric, JOB)
    return f"{total(series, 'job', kind)} > 0 or {total(series, 'job')} == 0"


# Can there be dots?


def exposed_now() -> stat.Panel:
    return panels.figure(
        "Exposed",
        "Exemplars on the pages of the services now. Zero under load: no request is sampled, or its span is not found; "
        "see *Taken, marked, refused*.",
        units.Short,
        query(total(f"exemplars_exposed{{{JOB}}}"), "exposed"),
        absent="no service is scraped",
    ).thresholds(panels.thresholds((None, RED), (1, GREEN)))


def stored_now() -> stat.Panel:
    return panels.figure(
        "Series with dots",
        "Series of which Prometheus has stored an exemplar. Zero while some are exposed: it was started without "
        "`--enable-feature=exemplar-storage`, or it asks for plain text.",
        units.Short,
        query(f"sum({TSDB}_series_with_exemplars_in_storage{{{SERVER}}})", "series"),
        absent=NO_PROMETHEUS,
    ).thresholds(panels.thresholds((None, RED), (1, GREEN)))


def lifetime_now() -> stat.Panel:
    return panels.figure(
        "A dot lives",
        "Age of the oldest exemplar in Prometheus's ring; older dots are gone. Shorter than the time ranges that you "
        "look at: raise `storage.exemplars.max_exemplars`, or expose fewer series.",
        units.Seconds,
        query(f"min(time() - ({OLDEST} > 0))", "oldest"),
        absent=NO_PROMETHEUS,
    )


def plain_text_now() -> stat.Panel:
    return panels.figure(
        "Scrapes in plain text",
        "Pages, in the time range, that were asked for in the format that knows no exemplars. More than a probe or a "
        "curious human explains: a proxy strips `Accept`, or Prometheus's `scrape_protocols` leave OpenMetrics out.",
        units.Short,
        query(total(happened("exemplars_plain_text_scrapes_total", JOB)), "plain text"),
        absent="no service is scraped",
    ).thresholds(panels.thresholds((None, GREEN), (1, ORANGE)))


# Do the services take exemplars?


def taken() -> timeseries.Panel:
    def per_second(metric: str) -> str:
        return total(rate(f"exemplars_{metric}_total", JOB))

    return (
        panels.lines(
            "Taken, marked, refused",
            "A second: exemplars that buckets took, spans that were marked so that the Collector keeps their traces, "
            "spans that the budget left unmarked and so unshown. *taken* at zero: nothing is sampled, or the tracer "
            "provider is not the SDK's. *refused* for long: raise `marks_per_second`, if Tempo can bear it.",
            units.OpsPerSecond,
            query(per_second("taken"), "taken", ref="A"),
            query(per_second("marked"), "marked", ref="B"),
            query(per_second("marks_refused"), "refused", ref="C"),
        )
        .override_by_name("taken", fixed("blue"))
        .override_by_name("marked", fixed(GREEN))
        .override_by_name("refused", fixed(ORANGE))
    )


def exposed() -> timeseries.Panel:
    return panels.lines(
        "Exposed, by service",
        "Exemplars on the page of each service. It follows the load, as each vanishes after `max_age`. A service that "
        "is missing has no exemplars of ours: look at its sampling, then at its log.",
        units.Short,
        query(total(f"exemplars_exposed{{{JOB}}}", "job"), legend("job")),
    )


def errors() -> timeseries.Panel:
    return panels.lines(
        "Faults, by kind",
        "Faults inside the library a second: each cost a label or an exemplar, never a response. Any line above zero: "
        "the service's log has the first of its kind with its traceback.",
        units.OpsPerSecond,
        query(by_kind("exemplars_errors_total", "kind"), legend("job", "kind")),
    )


def refused_series() -> timeseries.Panel:
    return panels.lines(
        "Left out: series and files",
        "Observations a second that went to the overflow series, by metric, and files of workers that were left out "
        "of a page, by reason. Series: a label has too many values, or raise `max_series`. Files: see the log, and the "
        "free space where they lie.",
        units.OpsPerSecond,
        query(by_kind("exemplars_series_refused_total", "metric"), "{{job}} series {{metric}}", ref="A"),
        query(by_kind("exemplars_files_skipped_total", "reason"), "{{job}} files {{reason}}", ref="B"),
    )


def plain_text() -> timeseries.Panel:
    return panels.lines(
        "Scrapes in plain text, by service",
        "Pages a second without exemplars. As often as Prometheus scrapes: it is Prometheus that asks so; look at "
        "`scrape_protocols` and at proxies in between. Rarely: a probe, which does no harm.",
        units.OpsPerSecond,
        query(total(rate("exemplars_plain_text_scrapes_total", JOB), "job"), legend("job")),
    )


def workers() -> timeseries.Panel:
    return panels.lines(
        "Workers on a page",
        "Workers whose numbers the page shows, and whether they share them: 1, else 0. Fewer than you run, or 0: each "
        "answers for itself, so scrapes jump between them; see *Several workers* in the documents.",
        units.Short,
        query(f"max by (job) (exemplars_workers{{{JOB}}})", "{{job}} workers", ref="A"),
        query(f"min by (job) (exemplars_shared{{{JOB}}})", "{{job}} shared", ref="B"),
    )


# Does Prometheus keep them?


def appended() -> timeseries.Panel:
    appends = f"{rate(f'{TSDB}_exemplars_appended_total', SERVER)}"
    return (
        panels.lines(
            "Stored and evicted",
            "Exemplars a second that Prometheus stored, and those that it threw away for them, which it does once its "
            "ring is full. *stored* at zero while services expose some: the feature flag is missing, or it scrapes in "
            "plain text.",
            units.OpsPerSecond,
            query(f"sum({appends})", "stored", ref="A"),
            query(f"sum({appends} * ({STORED} >= bool {ROOM}))", "evicted", ref="B"),
        )
        .override_by_name("stored", fixed(GREEN))
        .override_by_name("evicted", fixed(ORANGE))
    )


def lifetime() -> timeseries.Panel:
    return panels.lines(
        "How long a dot lives",
        "Age of the oldest exemplar in the ring. It grows until the ring is full; a fall is a service with many new "
        "series or a restart. Less than an incident takes to be noticed: raise `max_exemplars`; each takes a few "
        "hundred bytes.",
        units.Seconds,
        query(f"time() - ({OLDEST} > 0)", legend("instance")),
    )


def out_of_order() -> timeseries.Panel:
    return (
        panels.lines(
            "Out of order",
            "Exemplars that Prometheus dropped as older than what it has, a second: at the scrape, and as the storage "
            "counts them. Ours are in order; if any are not: two instances behind one address, two scrapes of one "
            "instance under the same labels, or a clock that jumps.",
            units.OpsPerSecond,
            query(f"sum({rate('prometheus_target_scrapes_exemplar_out_of_order_total', SERVER)})", "scrapes", ref="A"),
            query(f"sum({rate(f'{TSDB}_out_of_order_exemplars_total', SERVER)})", "storage", ref="B"),
        )
        .override_by_name("scrapes", fixed(RED))
        .override_by_name("storage", fixed(ORANGE))
    )


# Does the Collector keep their traces?


def decisions() -> timeseries.Panel:
    return (
        panels.stacked(
            "Decisions on traces",
            "Traces a second that tail sampling kept, and let go. All let go: no policy matches. All kept: you pay for "
            "a sampling that does not sample. Empty: no Collector with tail sampling is scraped.",
            units.OpsPerSecond,
            query(collectors(f"{SAMPLING}_global_count_traces_sampled", "decision"), legend("decision")),
        )
        .no_value(NO_COLLECTOR)
        .override_by_name("sampled", fixed(GREEN))
        .override_by_name("not_sampled", fixed(panels.GREY))
        .override_by_name("dropped", fixed(ORANGE))
    )


def kept_by_policy() -> timeseries.Panel:
    kept = collectors(f"{SAMPLING}_count_traces_sampled", "policy", where='decision="sampled"')
    return panels.lines(
        "Kept, by policy",
        "Traces a second that each policy wanted. A policy at zero either has nothing to do or does not match: try it "
        "with one request of its kind.",
        units.OpsPerSecond,
        query(kept, legend("policy")),
    ).no_value(NO_COLLECTOR)


def marked_and_kept() -> timeseries.Panel:
    kept = collectors(f"{SAMPLING}_count_traces_sampled", where=MARK_POLICY)
    return (
        panels.lines(
            "Marked here, kept there",
            "Spans a second that services marked, and traces that the policy named `exemplar` kept for it. A trace may "
            "have a mark of each service it passed, so *kept* is somewhat lower. *kept* at zero: the policy is missing "
            "or the marks come too late; see `docs/how-it-works.md`.",
            units.OpsPerSecond,
            query(total(rate("exemplars_marked_total", JOB)), "marked", ref="A"),
            query(kept, "kept", ref="B"),
        )
        .override_by_name("marked", fixed("blue"))
        .override_by_name("kept", fixed(GREEN))
    )


def late() -> timeseries.Panel:
    # With a decision cache it counts what it lets go by it, without one how late each was.
    after = f"{SAMPLING}_early_releases_from_cache_decision|{SAMPLING}_sampling_late_span_age(_seconds)?_count"
    return panels.lines(
        "Too early, too late",
        "*too early*: traces a second thrown out undecided, as `num_traces` is too small for the load and "
        "`decision_wait`. *too late*: spans that came after their trace was let go, whose mark could not count: raise "
        "`decision_wait` above the longest request. *too large*: `maximum_trace_size_bytes`.",
        units.OpsPerSecond,
        query(collectors(f"{SAMPLING}_sampling_trace_dropped_too_early"), "too early", ref="A"),
        query(collectors(after, where='sampled!="true"'), "too late", ref="B"),
        query(collectors(f"{SAMPLING}_traces_dropped_too_large"), "too large", ref="C"),
    ).no_value(NO_COLLECTOR)


def lost() -> timeseries.Panel:
    return panels.lines(
        "Spans lost",
        "Spans a second that the Collector refused, could not queue or could not send: the dot stays, its trace does "
        "not come. *refused*: its memory limit. *not queued*, *not sent*: Tempo is down or too slow; see the log.",
        units.OpsPerSecond,
        query(collectors("receiver_refused_spans"), "refused", ref="A"),
        query(collectors("exporter_enqueue_failed_spans"), "not queued", ref="B"),
        query(collectors("exporter_send_failed_spans"), "not sent", ref="C"),
    ).no_value(NO_COLLECTOR)


def waiting() -> timeseries.Panel:
    return panels.lines(
        "Traces that wait for a decision",
        "Traces in the Collector's memory. At `num_traces` it throws the oldest out undecided. It should be about the "
        "traces of a second times `decision_wait`.",
        units.Short,
        query(total(WAITING, "instance"), legend("instance")),
    ).no_value(NO_COLLECTOR)


def pipeline() -> dashboard.Dashboard:
    meanwhile = [links.board("The requests meanwhile", links.OVERVIEW, "job")]

    def third(panel: timeseries.Panel) -> timeseries.Panel:
        return panel.span(8).axis_soft_max(1).data_links(meanwhile)

    servers = board.choice("prometheus", "Prometheus", f"label_values({TSDB}_max_exemplars, instance)")
    collector = board.choice(
        "collector", "Collector", "label_values(otelcol_processor_tail_sampling_sampling_traces_on_memory, instance)"
    )
    return board.board(
        links.PIPELINE,
        "Pipeline health",
        "The way of a dot: a service takes an exemplar, Prometheus stores it, the Collector keeps its trace. Read the "
        "rows from the top; the first that looks bad is where dots are lost. Prometheus has to scrape itself and the "
        "Collector for its lower half.",
        (board.METRICS, board.service("exemplars_taken_total"), servers, collector),
        (
            (
                "Can there be dots?",
                tuple(tile().data_links(meanwhile) for tile in (exposed_now, stored_now, lifetime_now, plain_text_now)),
            ),
            ("Do the services take exemplars?", tuple(map(third, (taken(), exposed(), plain_text())))),
            ("What do they leave out?", tuple(map(third, (errors(), refused_series(), workers())))),
            ("Does Prometheus keep them?", tuple(map(third, (appended(), lifetime(), out_of_order())))),
            (
                "Does the Collector keep their traces?",
                tuple(map(third, (marked_and_kept(), kept_by_policy(), decisions()))),
            ),
            ("Does it lose any?", tuple(map(third, (late(), lost(), waiting())))),
        ),
    )
