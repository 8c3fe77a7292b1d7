package overview

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peers"
)

type members []*membership.Member

func (m members) Members() []*membership.Member { return m }

func named(name string) Look {
	return func(n int) *insightpb.LookResponse {
		return &insightpb.LookResponse{Member: &insightpb.Member{Name: name}, Leases: int64(n)}
	}
}

func TestAll(t *testing.T) {
	list := members{}
	add := func(id uint64, name string, h http.Handler) {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		list = append(list, &membership.Member{
			ID: id, RaftAttributes: membership.RaftAttributes{PeerURLs: []string{"http://127.0.0.1:1", srv.URL}}, Attributes: membership.Attributes{Name: name},
		})
	}
	member := func(id, cluster uint64) *Overview {
		return New(Config{
			MemberID: id, Asker: peers.Asker{Client: http.DefaultClient, Cluster: func() uint64 { return cluster }}, Timeout: time.Minute,
			Members: struct{ membersFunc }{func() []*membership.Member { return list }},
		})
	}
	own, other, starting, stranger := member(1, 7), member(2, 7), member(3, 7), member(4, 8)
	own.Serve(named("a"))
	other.Serve(named("b"))
	stranger.Serve(named("d"))
	for id, o := range map[uint64]*Overview{1: own, 2: other, 3: starting, 4: stranger} {
		add(id, string(rune('a'+id-1)), o)
	}
	add(5, "e", http.NotFoundHandler())
	add(6, "f", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxLook+2)) }))
	add(7, "g", http.RedirectHandler("http://127.0.0.1:1", http.StatusFound))

	want := map[string]string{
		"a": "", "b": "", "c": "503 Service Unavailable: the member is not ready", "d": "412 Precondition Failed: cluster ID mismatch",
		"e": errOther.Error(), "f": "the answer is longer than 4194304 bytes", "g": "302 Found: ",
	}
	all := own.All(t.Context(), 3)
	require.Len(t, all, len(want))
	last := ""
	for _, l := range all {
		require.Greater(t, l.Name, last)
		last = l.Name
		if want[l.Name] == "" {
			require.Empty(t, l.Error)
			require.Equal(t, l.Name, l.Look.Member.Name)
			require.EqualValues(t, 3, l.Look.Leases, "the number of prefixes is passed on")
			continue
		}
		require.Nil(t, l.Look)
		require.Contains(t, l.Error, want[l.Name])
	}
}

type membersFunc func() []*membership.Member

func (f membersFunc) Members() []*membership.Member { return f() }

func TestBadRequests(t *testing.T) {
	o := New(Config{Asker: peers.Asker{Cluster: func() uint64 { return 7 }}})
	o.Serve(named("a"))
	for _, tc := range []struct {
		method, query, cluster string
		want                   int
	}{
		{http.MethodGet, "?prefixes=2", "7", http.StatusOK},
		{http.MethodPost, "?prefixes=2", "7", http.StatusMethodNotAllowed},
		{http.MethodGet, "?prefixes=many", "7", http.StatusBadRequest},
		{http.MethodGet, "", "7", http.StatusBadRequest},
		{http.MethodGet, "?prefixes=2", "", http.StatusPreconditionFailed},
	} {
		r := httptest.NewRequestWithContext(t.Context(), tc.method, Path+tc.query, nil)
		r.Header.Set(peers.ClusterIDHeader, tc.cluster)
		w := httptest.NewRecorder()
		o.ServeHTTP(w, r)
		require.Equal(t, tc.want, w.Code, "%v", tc)
	}
}
