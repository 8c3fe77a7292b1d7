package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
)

const testCluster = 0xc1

// fakeRaft records what the transport tells it.
type fakeRaft struct {
	mu          sync.Mutex
	got         []*raftpb.Message
	removed     map[uint64]bool
	unreachable map[uint64]int
	snapshots   []string // "id failed"
	stepErr     error
}

func (r *fakeRaft) Step(_ context.Context, m *raftpb.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stepErr != nil {
		return r.stepErr
	}
	r.got = append(r.got, m)
	return nil
}

func (r *fakeRaft) IsIDRemoved(id uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.removed[id]
}

func (r *fakeRaft) ReportUnreachable(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unreachable[id]++
}

func (r *fakeRaft) ReportSnapshot(id uint64, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.snapshots = append(r.snapshots, fmt.Sprint(id, failed))
}

func (r *fakeRaft) messages() []*raftpb.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*raftpb.Message(nil), r.got...)
}

func (r *fakeRaft) reports() (unreachable int, snapshots []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.unreachable {
		unreachable += n
	}
	return unreachable, append([]string(nil), r.snapshots...)
}

func (r *fakeRaft) set(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// fakeSnapshots keeps databases in memory.
type fakeSnapshots struct {
	mu  sync.Mutex
	dbs map[uint64][]byte
	err error
}

func (s *fakeSnapshots) SaveDB(r io.Reader, index uint64) (int64, error) {
	b, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err = errors.Join(err, s.err); err == nil {
		s.dbs[index] = b
	}
	return int64(len(b)), err
}

func (s *fakeSnapshots) db(index uint64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dbs[index]
}

// member is a transport behind a server.
type member struct {
	t     testing.TB
	id    uint64
	tr    *Transport
	raft  *fakeRaft
	snaps *fakeSnapshots
	reg   *prometheus.Registry
	srv   *httptest.Server
	addr  string
}

func newMember(t testing.TB, id uint64, change ...func(*Config)) *member {
	t.Helper()
	m := &member{
		t: t, id: id, reg: prometheus.NewRegistry(), snaps: &fakeSnapshots{dbs: map[uint64][]byte{}},
		raft: &fakeRaft{removed: map[uint64]bool{}, unreachable: map[uint64]int{}},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m.addr = l.Addr().String()
	cfg := Config{
		ID: id, ClusterID: testCluster, LocalURLs: []string{m.url()}, Raft: m.raft, Snapshots: m.snaps, Registerer: m.reg,
		ReadTimeout: time.Second, HeartbeatInterval: 50 * time.Millisecond, RetryInterval: 10 * time.Millisecond,
		ProbeInterval: 20 * time.Millisecond,
	}
	for _, f := range change {
		f(&cfg)
	}
	m.tr, err = New(cfg)
	require.NoError(t, err)
	m.listen(l)
	t.Cleanup(func() {
		m.tr.Stop()
		m.stopServer()
	})
	return m
}

func (m *member) url() string {
	if m.tr != nil && m.tr.cfg.TLS != nil {
		return "https://" + m.addr
	}
	return "http://" + m.addr
}

func (m *member) listen(l net.Listener) {
	m.srv = httptest.NewUnstartedServer(m.tr.Handler())
	m.srv.Listener.Close()
	m.srv.Listener = l
	if m.tr.cfg.TLS != nil {
		m.srv.StartTLS()
	} else {
		m.srv.Start()
	}
}

func (m *member) stopServer() {
	m.srv.CloseClientConnections()
	m.srv.Close()
}

func (m *member) restartServer() {
	var l net.Listener
	require.Eventually(m.t, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", m.addr)
		return err == nil
	}, 15*time.Second, 10*time.Millisecond)
	m.listen(l)
}

// connect makes members peers of each other and waits until all streams are up.
func connect(t testing.TB, members ...*member) {
	t.Helper()
	for _, a := range members {
		for _, b := range members {
			if a != b {
				a.tr.AddPeer(b.id, []string{b.url()})
			}
		}
	}
	for _, a := range members {
		for _, b := range members {
			if a != b {
				a.awaitStreams(b.id)
			}
		}
	}
}

func (m *member) streaming(to uint64) bool {
	p := m.tr.peer(to)
	for _, o := range p.streams {
		o.mu.Lock()
		up := o.conn != nil
		o.mu.Unlock()
		if !up {
			return false
		}
	}
	return true
}

func (m *member) awaitStreams(to uint64) {
	m.t.Helper()
	require.Eventually(m.t, func() bool { return m.streaming(to) }, 15*time.Second, 2*time.Millisecond)
}

func (m *member) awaitMessages(n int) []*raftpb.Message {
	m.t.Helper()
	require.Eventually(m.t, func() bool { return len(m.raft.messages()) >= n }, 15*time.Second, 2*time.Millisecond)
	require.Len(m.t, m.raft.messages(), n)
	return m.raft.messages()
}

func (m *member) awaitSnapshotReport(want string) {
	m.t.Helper()
	var got []string
	require.Eventually(m.t, func() bool {
		_, got = m.raft.reports()
		return len(got) > 0
	}, 15*time.Second, 2*time.Millisecond)
	require.Equal(m.t, []string{want}, got)
}

// metric adds up all values of a counter or gauge, or the number of observations of a histogram.
func (m *member) metric(name string) (sum float64) {
	families, err := m.reg.Gather()
	require.NoError(m.t, err)
	for _, f := range families {
		if f.GetName() == name {
			for _, s := range f.GetMetric() {
				sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func numbered(typ raftpb.MessageType, from, to, n uint64) *raftpb.Message {
	m := message(typ, from, to)
	m.Index = new(n)
	return m
}

// request makes a request with the headers of a member of the cluster, changed by pairs of name and value.
func (m *member) request(method, path string, body io.Reader, headers ...string) (int, string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.url()+path, body)
	require.NoError(m.t, err)
	for _, kv := range [][2]string{{headerFrom, "2"}, {headerVersion, "3.5.0"}, {headerMinCluster, "3.0.0"},
		{headerClusterID, formatID(testCluster)}, {headerTo, formatID(m.id)}} {
		req.Header.Set(kv[0], kv[1])
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(m.t, err)
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(b))
}
