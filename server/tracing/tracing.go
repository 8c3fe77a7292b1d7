// Package tracing records calls of clients as OpenTelemetry spans and sends them to a collector (OTLP over gRPC).
//
// A call belongs to the trace that its client names (W3C Trace Context in the call's metadata), and is recorded if the client
// records it. Of calls without a trace a share is recorded. The spans are those of etcd: one for the call, and below it what
// package rpc makes of the requests.
//
// Spans wait in a bounded queue and are sent in batches: a collector that is slow or away costs spans, never time.
//
// # Concurrency
//
// Everything may be called from any goroutine. Close is called once.
package tracing

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/rpc"
)

const (
	// scope is who the spans of requests say they come from: etcd, so that what reads its spans reads these.
	scope = "go.etcd.io/etcd"
	// flushTimeout is how long a collector may take to receive the last spans.
	flushTimeout = 5 * time.Second
	// perMillion is what a rate of sampling is a share of.
	perMillion = 1_000_000
)

// Tracing sends the spans of one member. A nil Tracing records nothing.
type Tracing struct {
	provider *trace.TracerProvider
	exporter trace.SpanExporter
	lg       *zap.Logger
}

// New makes a Tracing. The collector need not be there.
func New(ctx context.Context, cfg config.Tracing, lg *zap.Logger) (*Tracing, error) {
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(cfg.Address))
	if err != nil {
		return nil, err
	}
	about := []attribute.KeyValue{attribute.String("service.name", cfg.Service)}
	if cfg.Instance != "" {
		about = append(about, attribute.String("service.instance.id", cfg.Instance))
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(logged{exporter, lg}),
		trace.WithResource(resource.NewSchemaless(about...)),
		trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(float64(cfg.Rate)/perMillion))),
	)
	lg.Info("distributed tracing setup enabled", zap.String("address", cfg.Address), zap.String("service-name", cfg.Service),
		zap.String("service-instance-id", cfg.Instance), zap.Int("sampling-rate", cfg.Rate))
	return &Tracing{provider, exporter, lg}, nil
}

// Spans makes the spans of requests.
func (t *Tracing) Spans() *rpc.Spans {
	if t == nil {
		return nil
	}
	return &rpc.Spans{Tracer: t.provider.Tracer(scope)}
}

// ServerOptions make a gRPC server record its calls.
func (t *Tracing) ServerOptions() []grpc.ServerOption {
	if t == nil {
		return nil
	}
	spans := t.Spans()
	return []grpc.ServerOption{
		grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
			otelgrpc.WithTracerProvider(t.provider),
		)),
		grpc.ChainUnaryInterceptor(spans.Unary),
		grpc.ChainStreamInterceptor(spans.Stream),
	}
}

// Close sends what has been recorded, while ctx lasts, and ends.
func (t *Tracing) Close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.lg.Warn("the last spans could not be sent", zap.Error(err))
		_ = t.exporter.Shutdown(ctx) // ends what still tries
	}
}

// logged tells the member's log of spans that could not be sent; the library would print to standard error.
type logged struct {
	trace.SpanExporter
	lg *zap.Logger
}

// ExportSpans sends spans.
func (l logged) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	if err := l.SpanExporter.ExportSpans(ctx, spans); err != nil && !errors.Is(err, context.Canceled) {
		l.lg.Warn("spans could not be sent", zap.Int("spans", len(spans)), zap.Error(err))
	}
	return nil
}
