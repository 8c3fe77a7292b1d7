// Package inprocess carries HTTP requests to a handler in the same process: no socket, no TLS, no HTTP framing. The clients
// of controllers and of the scheduler use it when they live beside the API server.
//
// # Model
//
// RoundTrip runs the handler in a goroutine and returns when the handler has written its header. What the handler writes is
// read from the response's body, piece by piece; a handler that writes faster than its client reads waits. Closing the body, or
// the end of the request's context, ends the handler's context.
//
// # Concurrency
//
// A Transport may be used from any number of goroutines.
package inprocess

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// bufferBytes is how much of a response is kept before it is flushed.
const bufferBytes = 32 << 10

// Transport is an http.RoundTripper.
type Transport struct {
	// Handler serves the requests.
	Handler http.Handler

	buffers sync.Pool // *bufio.Writer, of responses that have ended: most are much shorter than a buffer
}

func (t *Transport) buffer(w io.Writer) *bufio.Writer {
	if b, ok := t.buffers.Get().(*bufio.Writer); ok {
		b.Reset(w)
		return b
	}
	return bufio.NewWriterSize(w, bufferBytes)
}

// RoundTrip serves a request.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	in := r.Clone(ctx)
	if in.Body == nil {
		in.Body = http.NoBody
	}
	in.RequestURI, in.RemoteAddr, in.Proto, in.ProtoMajor, in.ProtoMinor = r.URL.RequestURI(), "in-process", "HTTP/1.1", 1, 1
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	pr, pw := io.Pipe()
	w := &writer{header: http.Header{}, begun: make(chan struct{}), pipe: pw}
	w.buf = t.buffer(pw)
	go w.serve(t, in, cancel)
	stop := context.AfterFunc(r.Context(), func() { _ = pr.CloseWithError(r.Context().Err()) })
	select {
	case <-w.begun:
	case <-r.Context().Done():
		stop()
		cancel(r.Context().Err())
		_ = pr.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)), StatusCode: w.code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.sent, Body: &body{ctx: r.Context(), pipe: pr, cancel: cancel, stop: stop}, ContentLength: -1, Request: r,
	}, nil
}

// errClosed is the cause of the end of a handler's context whose client closed the body.
var errClosed = errors.New("in-process: the client closed the response")

type body struct {
	ctx    context.Context // of the request
	pipe   *io.PipeReader
	cancel context.CancelCauseFunc
	stop   func() bool
}

// Read returns the context's error, once that has ended, rather than what became of the handler by it.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.pipe.Read(p)
	if err != nil && b.ctx.Err() != nil {
		err = b.ctx.Err()
	}
	return n, err
}

// Close ends the handler.
func (b *body) Close() error {
	b.stop()
	b.cancel(errClosed)
	return b.pipe.CloseWithError(errClosed)
}

// writer is what a handler writes to.
type writer struct {
	header http.Header
	sent   http.Header // as it was when the header was written
	code   int
	begun  chan struct{}
	once   sync.Once
	pipe   *io.PipeWriter
	buf    *bufio.Writer
}

func (w *writer) serve(t *Transport, r *http.Request, cancel context.CancelCauseFunc) {
	err := io.EOF
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("in-process: the handler panicked: %v", p)
			w.WriteHeader(http.StatusInternalServerError)
		}
		w.WriteHeader(http.StatusOK)
		_ = w.buf.Flush() // the client is gone
		_ = w.pipe.CloseWithError(err)
		b := w.buf
		w.buf = nil // who writes after the end of the handler panics, as with net/http
		b.Reset(nil)
		t.buffers.Put(b)
		cancel(nil)
	}()
	defer r.Body.Close()
	t.Handler.ServeHTTP(w, r)
}

// Header is the header that will be sent.
func (w *writer) Header() http.Header { return w.header }

// WriteHeader lets RoundTrip return.
func (w *writer) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.begun)
	})
}

// Write passes bytes on, at the latest with the next Flush.
func (w *writer) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.buf.Write(b)
}

// FlushError passes on what was written.
func (w *writer) FlushError() error {
	w.WriteHeader(http.StatusOK)
	return w.buf.Flush()
}

// Flush passes on what was written.
func (w *writer) Flush() { _ = w.FlushError() }
