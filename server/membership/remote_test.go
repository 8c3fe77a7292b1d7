package membership

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/version"

	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/peers"
)

// peer is a running member of a cluster, with a server.
type peer struct {
	*Cluster
	url     string
	promote func(id uint64) ([]*Member, error)
	gate    error
}

func startPeer(t *testing.T) *peer {
	p := &peer{}
	p.Cluster, _ = storedCluster(t)
	srv := httptest.NewServer(NewHandler(HandlerConfig{
		Cluster:        p.Cluster,
		Promote:        func(_ context.Context, id uint64) ([]*Member, error) { return p.promote(id) },
		Gate:           func(context.Context) error { return p.gate },
		StorageVersion: func() string { return "3.7.0" },
	}))
	t.Cleanup(srv.Close)
	p.url = srv.URL
	m := started(0xa)
	m.PeerURLs = []string{p.url}
	m.ClientURLs = []string{"http://c:1"}
	require.NoError(t, p.Add(m))
	require.NoError(t, p.Add(&Member{ID: 0xb, RaftAttributes: RaftAttributes{PeerURLs: []string{"http://b:1"}, IsLearner: true}}))
	p.SetIDs(0xa, 0xcafe)
	require.NoError(t, p.SetVersion(&membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}))
	return p
}

func httpClient(t *testing.T) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// deadURL is one that nobody listens at.
func deadURL() string {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	return srv.URL
}

// serve makes a server that always gives the same answer.
func serve(t *testing.T, status int, header, body string) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(peers.ClusterIDHeader, header)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestFetchCluster(t *testing.T) {
	p, cl := startPeer(t), httpClient(t)
	bad := []string{deadURL(), serve(t, 404, "1", "404 page not found\n"), serve(t, 200, "zz", "[]"), serve(t, 200, "1", "[null]")}
	got, err := FetchCluster(t.Context(), cl, append(bad, p.url))
	require.NoError(t, err)
	require.Equal(t, uint64(0xcafe), got.ClusterID())
	require.Equal(t, p.Members(), got.Members())

	_, err = FetchCluster(t.Context(), cl, bad)
	require.ErrorContains(t, err, "could not retrieve cluster information")
	_, err = FetchCluster(t.Context(), cl, nil)
	require.ErrorContains(t, err, "could not retrieve cluster information")
	_, err = FetchCluster(t.Context(), cl, []string{serve(t, 200, "1", "[]"), p.url})
	require.ErrorContains(t, err, "failed to get raft cluster member(s)")
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	p, cl := startPeer(t), httpClient(t)
	srv := httptest.NewServer(http.RedirectHandler(p.url+"/members", http.StatusFound))
	defer srv.Close()
	_, err := FetchCluster(t.Context(), cl, []string{srv.URL})
	require.Error(t, err)
	require.Nil(t, cl.CheckRedirect, "the caller's client is left as it was")
}

func TestIsBootstrapped(t *testing.T) {
	p, cl := startPeer(t), httpClient(t)
	ask := func(id uint64, urls ...string) bool { return IsBootstrapped(t.Context(), cl, urls, id, 5*time.Second) }
	require.True(t, ask(0xa, deadURL(), p.url))
	require.False(t, ask(0xb, p.url), "it never ran")
	require.False(t, ask(0xc, p.url))
	require.False(t, ask(0xa, deadURL()))

	block := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-block }))
	defer srv.Close()
	defer close(block)
	require.False(t, IsBootstrapped(t.Context(), cl, []string{srv.URL}, 0xa, 10*time.Millisecond))
}

func TestCheckCompatible(t *testing.T) {
	cl := httpClient(t)
	remote := func(cluster string, downgrade bool) string {
		mux := http.NewServeMux()
		mux.HandleFunc(versionPath, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"etcdserver":"3.7.3","etcdcluster":"`+cluster+`","storage":""}`)
		})
		if downgrade {
			mux.HandleFunc(downgradePath, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "true") })
		}
		srv := httptest.NewServer(mux)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	check := func(urls ...string) error {
		members := []*Member{member(99, deadURL())}
		for i, u := range urls {
			members = append(members, member(uint64(i+1), u))
		}
		return CheckCompatible(t.Context(), cl, newFromMembers(1, members), 99)
	}
	require.NoError(t, check(remote("3.7.0", false), deadURL()))
	require.NoError(t, check(remote("3.5.0", false), remote("not_decided", false)))
	require.ErrorContains(t, check(remote("3.8.0", false)), "member 1 has cluster version 3.8.0, not in the range from 3.0.0 to 3.7.0")
	require.ErrorContains(t, check(remote("2.3.0", false), remote("3.7.0", false)), "not in the range")
	require.ErrorContains(t, check(deadURL(), remote("not_decided", false)), "no member")
	require.ErrorContains(t, check(), "no member")
	require.NoError(t, check(remote("3.8.0", true)), "a downgrade to this version is under way")
	require.ErrorContains(t, check(remote("3.7.0", true)), "from 3.8.0 to 3.8.0")
	require.NoError(t, CheckCompatible(t.Context(), cl, startPeer(t).Cluster, 0xb))
}

func TestVersions(t *testing.T) {
	p, cl := startPeer(t), httpClient(t)
	members := []*Member{member(1, deadURL()), {ID: 2, RaftAttributes: RaftAttributes{PeerURLs: []string{deadURL(), serve(t, 404, "", "no"), p.url}}}}
	require.Equal(t, map[uint64]*version.Versions{
		1: nil,
		2: {Server: version.Version, Cluster: "3.7.0", Storage: "3.7.0"},
	}, Versions(t.Context(), cl, members))

	me, _ := storedCluster(t, member(7, deadURL()), members[1])
	me.SetIDs(7, 1)
	all := me.AllVersions(t.Context(), cl)
	require.Len(t, all, 2)
	require.Equal(t, version.Version, all[7].Server)
	require.Equal(t, notDecided, all[7].Cluster)
	require.Equal(t, "3.7.0", all[2].Cluster)
	me.SetIDs(8, 1)
	require.NotContains(t, me.AllVersions(t.Context(), cl), uint64(8))
}

func TestPromoteRemote(t *testing.T) {
	p, cl := startPeer(t), httpClient(t)
	p.promote = func(id uint64) ([]*Member, error) {
		require.Equal(t, uint64(1<<64-2), id)
		return p.Members(), nil
	}
	got, err := PromoteRemote(t.Context(), cl, p.url, 1<<64-2)
	require.NoError(t, err)
	require.Equal(t, p.Members(), got)
	for _, want := range []error{ErrIDNotFound, ErrMemberNotLearner, errdefs.ErrLearnerNotReady} {
		p.promote = func(uint64) ([]*Member, error) { return nil, want }
		_, err = PromoteRemote(t.Context(), cl, p.url, 1)
		require.ErrorIs(t, err, want)
	}
	p.promote = func(uint64) ([]*Member, error) { return nil, errdefs.ErrNotLeader }
	_, err = PromoteRemote(t.Context(), cl, p.url, 1)
	require.EqualError(t, err, `member promote: unknown error({"message":"Internal Server Error"})`)

	_, err = PromoteRemote(t.Context(), cl, serve(t, 408, "", ""), 1)
	require.ErrorIs(t, err, errdefs.ErrTimeout)
	_, err = PromoteRemote(t.Context(), cl, serve(t, 412, "", "other"), 1)
	require.ErrorContains(t, err, "unknown error(other)")
	_, err = PromoteRemote(t.Context(), cl, serve(t, 200, "", "{"), 1)
	require.Error(t, err)
	_, err = PromoteRemote(t.Context(), cl, deadURL(), 1)
	require.Error(t, err)
	_, err = PromoteRemote(t.Context(), cl, "http://[", 1)
	require.Error(t, err)
}

// Statuses, headers and bodies are what etcd 3.7.3 answers.
func TestHandler(t *testing.T) {
	p, cl := startPeer(t), httpClient(t)
	p.promote = func(id uint64) ([]*Member, error) {
		if id == 5 {
			return nil, ErrIDNotFound
		}
		return nil, errors.New("other")
	}
	const text = "text/plain; charset=utf-8"
	for _, tc := range []struct {
		method, path string
		status       int
		mime, body   string
		signed       bool
	}{
		{"GET", "/members", 200, "application/json", `[{"id":10,"peerURLs":["` + p.url + `"],"name":"n","clientURLs":["http://c:1"]},{"id":11,"peerURLs":["http://b:1"],"isLearner":true}]` + "\n", true},
		{"POST", "/members", 405, text, "Method Not Allowed\n", false},
		{"GET", "/members/", 404, text, "404 page not found\n", false},
		{"GET", "/other", 404, text, "404 page not found\n", false},
		{"GET", "/version", 200, "application/json", `{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}`, false},
		{"PUT", "/version", 405, text, "Method Not Allowed\n", false},
		{"GET", "/members/promote/5", 405, text, "Method Not Allowed\n", false},
		{"POST", "/members/promote/5", 404, text, "membership: ID not found\n", true},
		{"POST", "/members/promote/x", 404, text, "member x not found in cluster\n", true},
		{"POST", "/members/promote/6", 500, "application/json", `{"message":"Internal Server Error"}`, true},
		{"GET", "/downgrade/enabled", 200, "text/plain", "false", true},
		{"POST", "/downgrade/enabled", 405, text, "Method Not Allowed\n", false},
	} {
		name := tc.method + " " + tc.path
		req, err := http.NewRequestWithContext(t.Context(), tc.method, p.url+tc.path, nil)
		require.NoError(t, err)
		resp, err := cl.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, tc.status, resp.StatusCode, name)
		require.Equal(t, tc.body, string(body), name)
		require.Equal(t, tc.mime, resp.Header.Get("Content-Type"), name)
		require.Equal(t, tc.signed, resp.Header.Get(peers.ClusterIDHeader) == "cafe", name)
		require.Equal(t, tc.status == 405, resp.Header.Get("Allow") != "", name)
	}

	p.gate = errors.New("no leader")
	resp, err := ask(t.Context(), cl, "GET", p.url+downgradePath)
	require.NoError(t, err)
	require.Equal(t, 500, resp.status)
	require.Equal(t, "failed linearized read: no leader\n", string(resp.body))
}

func TestAnswersAreLimited(t *testing.T) {
	resp, err := ask(t.Context(), httpClient(t), "GET", serve(t, 200, "", strings.Repeat("x", maxAnswer+10)))
	require.NoError(t, err)
	require.Len(t, resp.body, maxAnswer)
}
