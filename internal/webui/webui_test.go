package webui

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func get(t *testing.T, h http.Handler, method, path, etag string) (*http.Response, string) {
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	if etag != "" {
		r.Header.Set("If-None-Match", etag)
	}
	w := httptest.NewRecorder()
	w.Header().Set("Access-Control-Allow-Origin", "*") // as a server does that lets others read its answers
	h.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	require.NoError(t, err)
	return w.Result(), string(body)
}

func TestHandler(t *testing.T) {
	h := Handler(fstest.MapFS{"index.html": {Data: []byte("<p>hello")}, "sub/a.js": {Data: []byte("1")}})
	for path, want := range map[string]string{
		"/": "text/html; charset=utf-8", "/index.html": "text/html; charset=utf-8", "/sub/a.js": "text/javascript; charset=utf-8",
		"/base/base.css": "text/css; charset=utf-8", "/base/dom.js": "text/javascript; charset=utf-8",
	} {
		r, body := get(t, h, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, r.StatusCode, path)
		require.NotEmpty(t, body)
		require.Equal(t, want, r.Header.Get("Content-Type"), path)
		require.Contains(t, r.Header.Get("Content-Security-Policy"), "default-src 'none'")
		require.Equal(t, "DENY", r.Header.Get("X-Frame-Options"))
		require.Empty(t, r.Header.Get("Access-Control-Allow-Origin"))

		r, body = get(t, h, http.MethodGet, path, r.Header.Get("ETag"))
		require.Equal(t, http.StatusNotModified, r.StatusCode, path)
		require.Empty(t, body)
	}
	for _, path := range []string{"/none", "/base", "/base/", "/sub", "/../webui.go", "/base/../index.html"} {
		r, _ := get(t, h, http.MethodGet, path, "")
		require.Equal(t, http.StatusNotFound, r.StatusCode, path)
	}
	r, _ := get(t, h, http.MethodPost, "/", "")
	require.Equal(t, http.StatusMethodNotAllowed, r.StatusCode)
	require.PanicsWithValue(t, "webui: a page has no files like x.exe", func() { Handler(fstest.MapFS{"x.exe": {}}) })
}

// TestNothingInline finds what the policy would not let run.
func TestNothingInline(t *testing.T) {
	entries, err := base.ReadDir("base")
	require.NoError(t, err)
	for _, e := range entries {
		data, err := base.ReadFile("base/" + e.Name())
		require.NoError(t, err)
		for _, wrong := range []string{"innerHTML", "eval(", "https://", "document.write"} {
			require.False(t, strings.Contains(string(data), wrong), "%s has %s", e.Name(), wrong)
		}
	}
}
