'use strict';

// Lines of JSON to stderr and, if LOG_FILE names one, to the end of a file. The fields are those of every service of the
// shop, so that one query finds the lines of a trace in all of them.

const { openSync, writeSync } = require('node:fs');
const { trace } = require('@opentelemetry/api');
const { serviceName } = require('./tracing');

const file = process.env.LOG_FILE && openSync(process.env.LOG_FILE, 'a');

function write(level, message) {
  const context = trace.getActiveSpan()?.spanContext();
  const line = `${JSON.stringify({
    timestamp: new Date().toISOString(),
    level,
    logger: 'risk',
    message,
    'service.name': serviceName,
    ...(context && { trace_id: context.traceId, span_id: context.spanId }),
  })}\n`;
  process.stderr.write(line);
  if (!file) return;
  try {
    writeSync(file, line);
  } catch {
    // A full disk is no reason to fail a request, and the line is on stderr.
  }
}

module.exports = {
  info: (message) => write('INFO', message),
  warn: (message) => write('WARNING', message),
  error: (message) => write('ERROR', message),
};
