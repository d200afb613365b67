package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

type telemetry struct {
	traces   *sdktrace.TracerProvider
	readings *sdkmetric.MeterProvider
	metrics  http.Handler // the page for Prometheus
}

// configure sets up log, traces and metrics of this process. The environment says the rest: OTEL_SERVICE_NAME,
// OTEL_TRACES_SAMPLER (by default what the caller decided, else all), OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_BSP_*.
func configure(ctx context.Context) (*telemetry, error) {
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("payment")),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // the last word
	)
	if err != nil {
		return nil, err
	}
	name, _ := about.Set().Value(semconv.ServiceNameKey)
	if err := configureLog(name.AsString()); err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { slog.Warn("OpenTelemetry: " + err.Error()) }))
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))

	spans, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	traces := sdktrace.NewTracerProvider(sdktrace.WithBatcher(spans), sdktrace.WithResource(about))
	otel.SetTracerProvider(traces)

	registry := prometheus.NewRegistry()
	reader, err := otelprometheus.New(
		otelprometheus.WithRegisterer(registry),
		otelprometheus.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		otelprometheus.WithoutScopeInfo(),
	)
	if err != nil {
		return nil, err
	}
	readings := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(reader), sdkmetric.WithResource(about), sdkmetric.WithView(lean, unmeasured),
	)
	otel.SetMeterProvider(readings)

	page := promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}) // without it, no exemplars
	return &telemetry{traces: traces, readings: readings, metrics: page}, nil
}

// shutdown sends what has not been sent.
func (t *telemetry) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := errors.Join(t.traces.Shutdown(ctx), t.readings.Shutdown(ctx)); err != nil {
		slog.Warn("the last spans are lost: " + err.Error())
	}
}

// unmeasured leaves out the sizes, which no panel shows.
var unmeasured = sdkmetric.NewView(
	sdkmetric.Instrument{Name: "http.*.body.size"}, sdkmetric.Stream{Aggregation: sdkmetric.AggregationDrop{}},
)

// lean keeps the labels that the dashboard knows. otelhttp adds server.address among others, which is whatever a client
// writes into its Host header.
var lean = sdkmetric.NewView(
	sdkmetric.Instrument{Name: "http.server.request.duration"},
	sdkmetric.Stream{
		AttributeFilter: attribute.NewAllowKeysFilter(
			semconv.HTTPRequestMethodKey,
			semconv.HTTPRouteKey,
			semconv.HTTPResponseStatusCodeKey,
			semconv.URLSchemeKey,
			semconv.ErrorTypeKey,
		),
		ExemplarReservoirProviderSelector: idsOnly,
	},
)

// idsOnly chooses exemplars as the SDK does by default, without the attributes that a view took off: the SDK would make
// them labels of the exemplar, and with more than 128 characters in them a series has no exemplars at all.
func idsOnly(aggregation sdkmetric.Aggregation) exemplar.ReservoirProvider {
	provide := sdkmetric.DefaultExemplarReservoirProviderSelector(aggregation)
	return func(attributes attribute.Set) exemplar.Reservoir { return bare{provide(attributes)} }
}

type bare struct{ exemplar.Reservoir }

func (b bare) Offer(ctx context.Context, t time.Time, value exemplar.Value, _ []attribute.KeyValue) {
	b.Reservoir.Offer(ctx, t, value, nil)
}
