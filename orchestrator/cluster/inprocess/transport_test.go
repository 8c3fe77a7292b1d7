package inprocess

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(h http.HandlerFunc) *http.Client { return &http.Client{Transport: &Transport{Handler: h}} }

func TestRequest(t *testing.T) {
	c := client(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		w.Header().Set("X-Path", r.URL.Path+"?"+r.URL.RawQuery)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Late", "1")
		_, _ = fmt.Fprintf(w, "%s %s %v", r.Method, b, err)
	})
	resp, err := c.Post("http://in-process/a/b?c=d", "text/plain", strings.NewReader("hello"))
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, "POST hello <nil>", string(b))
	require.Equal(t, http.StatusTeapot, resp.StatusCode)
	require.Equal(t, "/a/b?c=d", resp.Header.Get("X-Path"))
	require.Empty(t, resp.Header.Get("X-Late"))
}

func TestNothingWritten(t *testing.T) {
	resp, err := client(func(http.ResponseWriter, *http.Request) {}).Get("http://in-process/")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Empty(t, b)
	require.NoError(t, resp.Body.Close())
}

// TestStream reads pieces while the handler goes on, and ends it in both ways.
func TestStream(t *testing.T) {
	ended := make(chan error, 1)
	c := client(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; r.Context().Err() == nil; i++ {
			_, _ = fmt.Fprintln(w, i)
			_ = http.NewResponseController(w).Flush()
		}
		ended <- context.Cause(r.Context())
	})
	for _, cancelled := range []bool{false, true} {
		ctx, cancel := context.WithCancel(context.Background())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://in-process/", nil)
		require.NoError(t, err)
		resp, err := c.Do(r)
		require.NoError(t, err)
		lines := bufio.NewScanner(resp.Body)
		for i := range 100 {
			require.True(t, lines.Scan())
			require.Equal(t, fmt.Sprint(i), lines.Text())
		}
		if cancelled {
			cancel()
			_, err = io.Copy(io.Discard, resp.Body)
			require.ErrorIs(t, err, context.Canceled)
		}
		require.NoError(t, resp.Body.Close())
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			require.Fail(t, "the handler goes on")
		}
		cancel()
	}
}

// TestSlowHandler gives up before the handler has begun to answer.
func TestSlowHandler(t *testing.T) {
	ended := make(chan struct{})
	c := client(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(ended) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://in-process/", nil)
	require.NoError(t, err)
	_, err = c.Do(r)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	<-ended
}

func TestPanic(t *testing.T) {
	resp, err := client(func(http.ResponseWriter, *http.Request) { panic("oops") }).Get("http://in-process/")
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	_, err = io.ReadAll(resp.Body)
	require.ErrorContains(t, err, "oops")
	require.NoError(t, resp.Body.Close())
}
