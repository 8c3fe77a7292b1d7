package health

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

func TestServe(t *testing.T) {
	mux, stage := http.NewServeMux(), NewStage("a", "b")
	broken := errors.New("broken: a secret")
	Serve(mux, "/livez", zap.NewNop(), Ping(), Check{"etcd", func(context.Context) error { return broken }}, stage.Check("poststarthook/x"))
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	code, body := get("/livez")
	require.Equal(t, 500, code)
	require.Equal(t, "[+]ping ok\n[-]etcd failed: reason withheld\n[-]poststarthook/x failed: reason withheld\nlivez check failed\n", body)
	code, body = get("/livez/etcd")
	require.Equal(t, 500, code)
	require.Equal(t, "internal server error: broken: a secret\n", body)
	code, body = get("/livez/poststarthook/x")
	require.Equal(t, 500, code)
	require.Contains(t, body, "a, b")
	stage.Done("a")
	stage.Expect("c")
	stage.Done("b")
	stage.Done("c")
	code, body = get("/livez/poststarthook/x")
	require.Equal(t, 200, code)
	require.Equal(t, "ok", body)
	code, body = get("/livez?exclude=etcd&exclude=nonsense&verbose")
	require.Equal(t, 200, code)
	require.Equal(t, "[+]ping ok\n[+]etcd excluded: ok\n[+]poststarthook/x ok\nwarn: some health checks cannot be excluded: no matches for [\"nonsense\"]\nlivez check passed\n", body)
	broken = nil
	code, body = get("/livez")
	require.Equal(t, 200, code)
	require.Equal(t, "ok", body)
	code, _ = get("/livez/nonsense")
	require.Equal(t, 404, code)
}
