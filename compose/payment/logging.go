package main

import (
	"context"
	"io"
	"log/slog"
	"os"

	"go.opentelemetry.io/otel/trace"
)

// configureLog makes the default logger write lines of JSON to stderr and, if LOG_FILE names one, to the end of a file.
// Its fields are those of every service of the shop, so that one query finds the lines of a trace in all of them.
func configureLog(service string) error {
	var output io.Writer = os.Stderr
	if name := os.Getenv("LOG_FILE"); name != "" {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		output = io.MultiWriter(os.Stderr, file) // open until the process ends
	}
	lines := slog.NewJSONHandler(output, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch {
		case len(groups) > 0:
		case a.Key == slog.TimeKey:
			a.Key = "timestamp"
		case a.Key == slog.MessageKey:
			a.Key = "message"
		case a.Key == slog.LevelKey && a.Value.Any() == slog.LevelWarn:
			a.Value = slog.StringValue("WARNING") // as Python's services spell it
		}
		return a
	}})
	slog.SetDefault(slog.New(traced{lines.WithAttrs([]slog.Attr{
		slog.String("logger", "payment"),
		slog.String("service.name", service),
	})}))
	return nil
}

// traced adds the span of the context that a line was logged with.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record.AddAttrs(
			slog.String("trace_id", span.TraceID().String()),
			slog.String("span_id", span.SpanID().String()),
		)
	}
	return h.Handler.Handle(ctx, record)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }

func (h traced) WithGroup(name string) slog.Handler { return traced{h.Handler.WithGroup(name)} }
