'use strict';

// OpenTelemetry's SDK, which has to be set up before anything that it instruments is loaded. The environment says the
// rest: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER (by default what the caller decided, else all),
// OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_*.

const { OTLPTraceExporter } = require('@opentelemetry/exporter-trace-otlp-proto');
const { ExpressInstrumentation } = require('@opentelemetry/instrumentation-express');
const { HttpInstrumentation } = require('@opentelemetry/instrumentation-http');
const { registerInstrumentations } = require('@opentelemetry/instrumentation');
const {
  defaultResource,
  detectResources,
  envDetector,
  resourceFromAttributes,
} = require('@opentelemetry/resources');
const { BatchSpanProcessor, NodeTracerProvider } = require('@opentelemetry/sdk-trace-node');

const resource = defaultResource()
  .merge(resourceFromAttributes({ 'service.name': 'risk' }))
  .merge(detectResources({ detectors: [envDetector] })); // the last word

const provider = new NodeTracerProvider({
  resource,
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())],
});
provider.register(); // with W3C propagation

registerInstrumentations({
  tracerProvider: provider,
  instrumentations: [
    new HttpInstrumentation({ ignoreIncomingRequestHook: (request) => request.url.split('?', 1)[0] === '/metrics' }),
    // For the route in the span of the request; spans of its own for what Express does inside are of no use here.
    new ExpressInstrumentation({ ignoreLayersType: ['middleware', 'router', 'request_handler'] }),
  ],
});

module.exports = {
  serviceName: resource.attributes['service.name'],
  /** Sends the spans that have not been sent. */
  shutdown: () => provider.shutdown(),
};
