'use strict';

// The metrics of OpenTelemetry's semantic conventions, by prom-client: OpenTelemetry's own exporter for Prometheus
// writes no exemplars in Node.

const { trace, TraceFlags } = require('@opentelemetry/api');
const { Gauge, Histogram, Registry } = require('prom-client');

const METHODS = new Set('CONNECT DELETE GET HEAD OPTIONS PATCH POST PUT QUERY TRACE'.split(' '));

const registry = new Registry(Registry.OPENMETRICS_CONTENT_TYPE);

const duration = new Histogram({
  name: 'http_server_request_duration_seconds',
  help: 'Duration of HTTP server requests.',
  labelNames: ['http_request_method', 'http_route', 'http_response_status_code', 'url_scheme', 'error_type'],
  // Whole numbers are strings because prom-client would write le="1" where OpenMetrics has le="1.0".
  buckets: [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, '1.0', 2.5, '5.0', 7.5, '10.0'],
  enableExemplars: true,
  registers: [registry],
});

const active = new Gauge({
  name: 'http_server_active_requests',
  help: 'Number of active HTTP server requests.',
  labelNames: ['http_request_method', 'url_scheme'],
  registers: [registry],
});

/** The middleware that measures every request; the first one, but after what serves the page of metrics. */
function measure(request, response, next) {
  const start = process.hrtime.bigint();
  const method = METHODS.has(request.method) ? request.method : '_OTHER';
  // The request's span is current here, and need not be when the response is over.
  const exemplarLabels = ofSampled(trace.getActiveSpan());
  const running = { http_request_method: method, url_scheme: 'http' };
  active.inc(running);
  response.once('close', () => {
    active.dec(running);
    const labels = { ...running };
    if (request.route) labels.http_route = request.baseUrl + request.route.path;
    if (response.headersSent) labels.http_response_status_code = response.statusCode;
    if (!response.writableFinished) labels.error_type = 'client_disconnected';
    else if (response.statusCode >= 500) labels.error_type = String(response.statusCode);
    duration.observe({ labels, value: Number(process.hrtime.bigint() - start) / 1e9, exemplarLabels });
  });
  next();
}

/** The labels of an exemplar for *span*; none, and so no exemplar, if its trace is not kept. */
function ofSampled(span) {
  const context = span?.spanContext();
  if (!context || !(context.traceFlags & TraceFlags.SAMPLED)) return {};
  return { trace_id: context.traceId, span_id: context.spanId };
}

/** Answers with the page of metrics. */
async function page(request, response) {
  response.set('Content-Type', registry.contentType);
  response.end(await registry.metrics());
}

module.exports = { measure, page };
