package peers

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGet(t *testing.T) {
	a := Asker{http.DefaultClient, func() uint64 { return 0xab }}
	var asked []string
	member := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked = append(asked, r.URL.String()); a.Admit(w, r) {
			http.Redirect(w, r, "http://127.0.0.1:1", http.StatusFound)
		}
	}))
	defer member.Close()
	resp, err := a.Get(t.Context(), []string{"http://127.0.0.1:1", member.URL, "http://127.0.0.1:1"}, "/x?y=1")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusFound, resp.StatusCode, "another one answers in the place of the member")
	require.Equal(t, []string{"/x?y=1"}, asked)
	require.Nil(t, http.DefaultClient.CheckRedirect, "the caller's client is left as it was")

	for _, urls := range [][]string{nil, {"http://127.0.0.1:1"}, {"://"}} {
		_, err := a.Get(t.Context(), urls, "/")
		require.Error(t, err, "%v", urls)
	}
}

func TestAdmit(t *testing.T) {
	a := Asker{http.DefaultClient, func() uint64 { return 0xab }}
	for _, tc := range []struct {
		method, cluster string
		want            int
	}{
		{http.MethodGet, "ab", http.StatusOK}, {http.MethodGet, "AB", http.StatusPreconditionFailed}, {http.MethodGet, "", http.StatusPreconditionFailed},
		{http.MethodPost, "ab", http.StatusMethodNotAllowed},
	} {
		r := httptest.NewRequestWithContext(t.Context(), tc.method, "/", nil)
		r.Header.Set(ClusterIDHeader, tc.cluster)
		w := httptest.NewRecorder()
		require.Equal(t, tc.want == http.StatusOK, a.Admit(w, r), "%v", tc)
		require.Equal(t, tc.want, w.Code, "%v", tc)
	}
}
