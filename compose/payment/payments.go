package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

var tracer = otel.Tracer("payment")

type payment struct {
	Order    string  `json:"order"`
	Customer string  `json:"customer"`
	Amount   float64 `json:"amount"`
}

type receipt struct {
	Number string `json:"receipt"`
}

// refused is an answer that is no fault of ours: the client's status and what to tell.
type refused struct {
	status int
	detail string
}

func (r refused) Error() string { return r.detail }

// newHandler serves the payments, traced and measured, and the page of metrics, which is neither.
func newHandler(service *payments, metrics http.Handler) http.Handler {
	routes := http.NewServeMux()
	routes.HandleFunc("POST /payments", service.post)

	all := http.NewServeMux()
	all.Handle("GET /metrics", metrics)
	all.Handle("/", otelhttp.NewHandler(counted(recovering(routes)), "request"))
	return all
}

type payments struct{ risk *risk }

func (s *payments) post(w http.ResponseWriter, r *http.Request) {
	asked := payment{Customer: "guest"}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&asked); err != nil {
		refuse(w, r, refused{http.StatusBadRequest, "no JSON of a payment: " + err.Error()})
		return
	}
	if asked.Order == "" || asked.Amount <= 0 {
		refuse(w, r, refused{http.StatusUnprocessableEntity, "a payment has an order and an amount above 0"})
		return
	}
	paid, err := s.pay(r.Context(), asked)
	var no refused
	switch {
	case err == nil:
		slog.InfoContext(r.Context(), fmt.Sprintf("order %s: %.2f paid", asked.Order, asked.Amount))
		answer(w, http.StatusCreated, paid)
	case errors.As(err, &no):
		refuse(w, r, no)
	case r.Context().Err() != nil:
		refuse(w, r, refused{499, "the client has left"}) // nginx's number for it: not an error of ours
	default:
		fail(w, r, http.StatusBadGateway, err)
	}
}

func (s *payments) pay(ctx context.Context, asked payment) (receipt, error) {
	score, err := s.risk.score(ctx, asked.Customer)
	if err != nil {
		return receipt{}, err
	}
	if score >= 95 && asked.Amount > 50 {
		return receipt{}, refused{http.StatusPaymentRequired, "not at this risk"}
	}
	charged, err := charge(ctx, asked.Order)
	if err != nil {
		return receipt{}, err
	}
	return *charged, nil // the service has this bug: an acquirer may answer without a receipt
}

// charge stands for an acquirer, who does the same with the same order: of 200, some twelve are declined, eight are slow,
// one is never answered, one is answered without a receipt.
func charge(ctx context.Context, order string) (*receipt, error) {
	ctx, span := tracer.Start(ctx, "charge")
	defer span.End()
	number := crc32.ChecksumIEEE([]byte(order))
	chance := number % 200
	took := time.Duration(8+number%7) * time.Millisecond
	switch {
	case chance >= 12 && chance < 20:
		took = time.Duration(25*chance) * time.Millisecond
	case chance == 20:
		took = 600 * time.Millisecond
	}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case chance < 12:
		return nil, refused{http.StatusPaymentRequired, "card declined"}
	case chance == 20:
		err := fmt.Errorf("acquirer: no answer after %s", took)
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
		return nil, err
	case chance == 21:
		return nil, nil
	}
	return &receipt{Number: strconv.FormatUint(uint64(number), 36)}, nil
}

// risk asks the risk service.
type risk struct {
	base   *url.URL
	client *http.Client
}

func newRisk(address string) (*risk, error) {
	base, err := url.Parse(address)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("RISK_URL is %q, which is no URL like http://risk:8000", address)
	}
	kept := http.DefaultTransport.(*http.Transport).Clone()
	kept.MaxIdleConnsPerHost = kept.MaxIdleConns // by default two, and a new connection for whoever comes third
	client := &http.Client{Transport: otelhttp.NewTransport(kept), Timeout: 3 * time.Second}
	return &risk{base: base, client: client}, nil
}

// score is from 0 (no risk) to 99.
func (r *risk) score(ctx context.Context, customer string) (int, error) {
	address := r.base.JoinPath("risk").String() + "/" + url.PathEscape(customer)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	response, err := r.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("risk: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("risk: %s", response.Status)
	}
	var found struct {
		Score int `json:"score"`
	}
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return 0, fmt.Errorf("risk: %w", err)
	}
	return found.Score, nil
}

// recovering answers 500 where a handler panics: the server would hang up on the client, and otelhttp would neither
// measure the request nor give its span a status. It goes inside otelhttp.
func recovering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if cause := recover(); cause != nil {
				fail(w, r, http.StatusInternalServerError, fmt.Errorf("panic: %v", cause))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// counted measures the requests that are running, which otelhttp does not.
func counted(next http.Handler) http.Handler {
	running, err := otel.Meter("payment").Int64UpDownCounter(
		"http.server.active_requests",
		metric.WithDescription("Number of active HTTP server requests."),
		metric.WithUnit("{request}"),
	)
	if err != nil {
		otel.Handle(err)
	}
	known := []string{"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if !slices.Contains(known, method) {
			method = "_OTHER"
		}
		of := metric.WithAttributes(semconv.HTTPRequestMethodKey.String(method), semconv.URLScheme("http"))
		running.Add(r.Context(), 1, of)
		defer running.Add(r.Context(), -1, of)
		next.ServeHTTP(w, r)
	})
}

// fail answers that something broke, and leaves it in the span, the log and the label error_type.
func fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	span := trace.SpanFromContext(r.Context())
	span.RecordError(err, trace.WithStackTrace(true)) // the status of the span is otelhttp's affair
	kind := semconv.ErrorTypeKey.String(strconv.Itoa(status))
	span.SetAttributes(kind)
	if labels, found := otelhttp.LabelerFromContext(r.Context()); found {
		labels.Add(kind)
	}
	slog.ErrorContext(r.Context(), err.Error())
	answer(w, status, map[string]string{"detail": http.StatusText(status)})
}

func refuse(w http.ResponseWriter, r *http.Request, no refused) {
	slog.WarnContext(r.Context(), no.detail)
	answer(w, no.status, map[string]string{"detail": no.detail})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		slog.Debug(err.Error()) // the client has gone
	}
}
