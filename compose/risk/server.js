'use strict';

// The risk service of the shop: GET /risk/{customer} tells how far to trust a customer, from 0 to 99.
//
// LISTEN_ADDRESS (0.0.0.0:8000) is where it listens; port 0 is a free one, told in the log. OTEL_* configures the traces,
// LOG_FILE is one more place for the log. SIGTERM lets running requests end and sends the last spans.

const tracing = require('./tracing'); // before express

const { createHash } = require('node:crypto');
const { setTimeout: sleep } = require('node:timers/promises');
const { diag, DiagLogLevel, SpanStatusCode, trace } = require('@opentelemetry/api');
const express = require('express');
const log = require('./log');
const metrics = require('./metrics');

diag.setLogger(log, DiagLogLevel.WARN); // spans that cannot be sent, say

const PAGE = 50; // orders
const tracer = trace.getTracer('risk');

/** What stands for a database: some customers have a long history, and it is read page by page, one after the other. */
async function history(customer) {
  return tracer.startActiveSpan('read history', async (span) => {
    const digest = createHash('sha256').update(customer).digest();
    const orders = digest[0] < 8 ? 1500 : digest[0];
    const pages = Math.ceil(orders / PAGE);
    span.setAttributes({ 'app.history.orders': orders, 'app.history.pages': pages });
    for (let page = 0; page < pages; page += 1) await sleep(3);
    span.end();
    return digest;
  });
}

const app = express();
app.disable('x-powered-by');
app.get('/metrics', metrics.page);
app.use(metrics.measure);

app.get('/risk/:customer', async (request, response) => {
  const { customer } = request.params;
  const digest = await history(customer);
  const score = digest[1] % 100;
  log.info(`customer ${customer}: ${score}`);
  response.json({ customer, score });
});

app.use((error, request, response, next) => {
  const status = error.status ?? 500; // Express says 400 to a path that cannot be decoded
  if (status >= 500) {
    const span = trace.getActiveSpan();
    span?.recordException(error);
    span?.setStatus({ code: SpanStatusCode.ERROR, message: error.message });
    log.error(error.stack);
  } else {
    log.warn(error.message);
  }
  if (response.headersSent) return next(error);
  return response.status(status).json({ detail: status >= 500 ? 'Internal Server Error' : error.message });
});

const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(process.env.LISTEN_ADDRESS || '0.0.0.0:8000') ?? [];
if (port === undefined) {
  console.error(`risk: LISTEN_ADDRESS is ${JSON.stringify(process.env.LISTEN_ADDRESS)}, which is no 0.0.0.0:8000`);
  process.exit(1);
}

const server = app.listen(Number(port), host, (error) => {
  if (error) throw error;
  log.info(`listening on http://${host}:${server.address().port}`);
});

async function end() {
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeIdleConnections();
  await Promise.race([closed, sleep(5000)]);
  const sent = tracing.shutdown().catch((error) => log.warn(`the last spans are lost: ${error.message}`));
  await Promise.race([sent, sleep(5000)]);
  process.exit(0);
}

let ending;
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => (ending ??= end()));
