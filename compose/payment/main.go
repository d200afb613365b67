// The payment service of the shop: POST /payments charges an order, after the risk service at RISK_URL was asked about
// its customer.
//
// LISTEN_ADDRESS (0.0.0.0:8000) is where it listens; port 0 is a free one, told in the log. OTEL_* configures the traces,
// LOG_FILE is one more place for the log. SIGTERM lets running requests end and sends the last spans. With -health, it
// asks a running one for its metrics instead, for Docker's health check: the image has no shell.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	run := serve
	if len(os.Args) == 2 && os.Args[1] == "-health" {
		run = healthy
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "payment:", err)
		os.Exit(1)
	}
}

func serve() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	telemetry, err := configure(ctx)
	if err != nil {
		return err
	}
	defer telemetry.shutdown()

	risk, err := newRisk(setting("RISK_URL", "http://127.0.0.1:8002"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", setting("LISTEN_ADDRESS", "0.0.0.0:8000"))
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           newHandler(&payments{risk: risk}, telemetry.metrics),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	slog.Info(fmt.Sprintf("listening on http://%s", listener.Addr()))

	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(patience)
}

// healthy tells whether the service on this machine gives its metrics, asked for as Prometheus does.
func healthy() error {
	_, port, err := net.SplitHostPort(setting("LISTEN_ADDRESS", "0.0.0.0:8000"))
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodGet, "http://127.0.0.1:"+port+"/metrics", nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/openmetrics-text")
	response, err := (&http.Client{Timeout: 4 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New(response.Status)
	}
	return nil
}

func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
