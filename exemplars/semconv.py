"""Names of OpenTelemetry's semantic conventions for HTTP, as Prometheus spells them.

Sources: https://opentelemetry.io/docs/specs/semconv/http/http-metrics/ (metrics, default buckets, known methods) and
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/ (dots to underscores, units).
"""

from typing import Final

DURATION: Final = "http_server_request_duration_seconds"
ACTIVE_REQUESTS: Final = "http_server_active_requests"
REQUEST_BODY_SIZE: Final = "http_server_request_body_size_bytes"
RESPONSE_BODY_SIZE: Final = "http_server_response_body_size_bytes"
# The conventions have no name for the time to the response's start.
RESPONSE_START: Final = "http_response_start_seconds"

METHOD: Final = "http_request_method"
ROUTE: Final = "http_route"
STATUS: Final = "http_response_status_code"
SCHEME: Final = "url_scheme"
ERROR_TYPE: Final = "error_type"
REQUEST_LABELS: Final = (METHOD, ROUTE, STATUS, SCHEME, ERROR_TYPE)
ACTIVE_LABELS: Final = (METHOD, SCHEME)

PROTOCOL_VERSION: Final = "network_protocol_version"
SERVER_ADDRESS: Final = "server_address"
SERVER_PORT: Final = "server_port"
OPTIONAL_LABELS: Final = (PROTOCOL_VERSION, SERVER_ADDRESS, SERVER_PORT)

# https://opentelemetry.io/docs/specs/otel/metrics/sdk/#overflow-attribute
OVERFLOW: Final = "otel_metric_overflow"

TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
TRACE_FLAGS: Final = "trace_flags"  # in log lines, beside the two
# client_java's mark on a span that became an exemplar: a Collector's tail sampling keeps its trace by it.
MARK: Final = "exemplar"
MARK_VALUE: Final = "true"

DURATION_BUCKETS: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)  # seconds
# The conventions name no bounds for sizes: powers of four from 256 bytes to 64 MiB.
SIZE_BUCKETS: Final = tuple(float(4**power) for power in range(4, 14))  # bytes

# RFC 9110, PATCH (RFC 5789) and QUERY, as the conventions list them.
KNOWN_METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
OTHER_METHOD: Final = "_OTHER"
KNOWN_SCHEMES: Final = frozenset(("http", "https"))
OTHER_SCHEME: Final = "_OTHER"

# error_type of endings that are not exceptions of the application.
CANCELLED: Final = "cancelled"
CLIENT_DISCONNECTED: Final = "client_disconnected"
INCOMPLETE_RESPONSE: Final = "incomplete_response"
