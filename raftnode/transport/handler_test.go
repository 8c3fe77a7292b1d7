package transport

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
)

func TestRequestsThatAreRefused(t *testing.T) {
	a := newMember(t, 1)
	a.tr.AddPeer(2, []string{"http://127.0.0.1:1"})
	a.raft.set(func() { a.raft.removed[4] = true })
	good := string(marshal(t, message(raftpb.MsgApp, 2, 1)))
	stream := streamPath + "/message/"
	for _, c := range []struct {
		method, path, body string
		headers            []string
		code               int
		text               string
	}{
		{"GET", raftPath, "", nil, 405, "Method Not Allowed"},
		{"GET", snapshotPath, "", nil, 405, "Method Not Allowed"},
		{"POST", stream + "2", "", nil, 405, "Method Not Allowed"},
		{"POST", raftPath, good, []string{headerClusterID, "bad"}, 412, "cluster ID mismatch"},
		{"POST", snapshotPath, good, []string{headerClusterID, ""}, 412, "cluster ID mismatch"},
		{"GET", stream + "2", "", []string{headerClusterID, "bad"}, 412, "cluster ID mismatch"},
		{"GET", stream + "2", "", []string{headerVersion, "2.3.8"}, 412, "incompatible version"},
		{"GET", stream + "2", "", []string{headerVersion, ""}, 412, "incompatible version"},
		{"GET", stream + "2", "", []string{headerVersion, "nonsense"}, 412, "incompatible version"},
		{"GET", stream + "2", "", []string{headerVersion, "4.0.0", headerMinCluster, "3.8.0"}, 412, "incompatible version"},
		{"GET", stream + "2", "", []string{headerTo, "7"}, 412, "to field mismatch"},
		{"GET", stream + "4", "", nil, 410, "removed member"},
		{"GET", stream + "5", "", nil, 404, "error sender not found"},
		{"GET", stream + "x", "", nil, 404, "invalid from"},
		{"GET", stream, "", nil, 404, "invalid from"},
		{"GET", stream + "2/2", "", nil, 404, "invalid from"},
		{"GET", streamPath + "/other/2", "", nil, 404, "invalid path"},
		{"POST", raftPath, "\xff\xff\xff", nil, 400, "error reading raft message"},
		{"POST", raftPath, string(marshal(t, message(raftpb.MsgApp, 4, 1))), nil, 403, "cannot process message from removed member"},
		{"POST", raftPath, string(marshal(t, message(raftpb.MsgApp, 2, 3))), nil, 403, "cannot process message to mismatch member"},
		{"POST", raftPath, good, nil, 204, ""},
		{"POST", raftPath, good, []string{headerVersion, "3.8.1-alpha.0", headerMinCluster, "3.7.0"}, 204, ""},
	} {
		code, text := a.request(c.method, c.path, strings.NewReader(c.body), c.headers...)
		require.Equal(t, fmt.Sprint(c.code, c.text), fmt.Sprint(code, text), "%s %s %v", c.method, c.path, c.headers)
	}
	require.Len(t, a.raft.messages(), 2)

	a.raft.set(func() { a.raft.stepErr = errors.New("busy") })
	code, _ := a.request(http.MethodPost, raftPath, strings.NewReader(good))
	require.Equal(t, http.StatusInternalServerError, code)
	a.tr.Stop()
	code, _ = a.request(http.MethodPost, raftPath, strings.NewReader(good))
	require.Equal(t, http.StatusServiceUnavailable, code)
}

func TestUnknownSendersBecomeRemotes(t *testing.T) {
	a := newMember(t, 1)
	a.raft.set(func() { a.raft.removed[4] = true })
	ask := func(id, urls string) {
		a.request(http.MethodGet, streamPath+"/message/"+id, nil, headerFrom, id, headerPeerURLs, urls)
	}
	for _, urls := range []string{"", "nonsense", "http://", ",", "http://h:1,"} {
		ask("3", urls)
		require.False(t, a.tr.known(3), urls)
	}
	ask("4", "http://127.0.0.1:1")
	ask("0", "http://127.0.0.1:1")
	ask("1", "http://127.0.0.1:1")
	require.Empty(t, a.tr.remotes)
	for i := range maxRemotes + 10 {
		ask(formatID(uint64(100+i)), "http://127.0.0.1:1,http://127.0.0.1:2")
	}
	require.Len(t, a.tr.remotes, maxRemotes)
	a.tr.RemoveAllPeers()
	require.Empty(t, a.tr.remotes)
}

func TestRemovedMember(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	b.raft.set(func() { b.raft.removed[1] = true })
	b.tr.RemovePeer(1)
	select {
	case <-a.tr.Removed():
	case <-time.After(5 * time.Second):
		t.Fatal("not told")
	}
	require.Eventually(t, func() bool { return a.tr.ActivePeers() == 0 }, 15*time.Second, 5*time.Millisecond)
	a.tr.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2)})
	time.Sleep(20 * time.Millisecond)
	require.Empty(t, b.raft.messages())
	a.tr.RemovePeer(2)
	a.tr.RemovePeer(2)
}

func TestOtherCluster(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2, func(c *Config) { c.ClusterID = 0xbad })
	a.tr.AddPeer(2, []string{b.url()})
	b.tr.AddPeer(1, []string{a.url()})
	a.tr.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2)})
	require.Eventually(t, func() bool { n, _ := a.raft.reports(); return n > 0 }, 15*time.Second, time.Millisecond)
	_, err := a.tr.peer(2).dial(messageStream)
	require.ErrorIs(t, err, ErrClusterIDMismatch)
	err = a.tr.peer(2).post(a.tr.postClient, raftPath, "", bytes.NewReader(nil), 0)
	require.ErrorIs(t, err, ErrClusterIDMismatch)
	require.Zero(t, a.tr.ActivePeers())
	require.Empty(t, b.raft.messages())
}

// TestAnswersOfPeers has peers that answer a dial in other ways than with a stream.
func TestAnswersOfPeers(t *testing.T) {
	a := newMember(t, 1)
	a.tr.AddPeer(2, []string{"http://127.0.0.1:1"})
	p := a.tr.peer(2)
	answer := func(code int, version, body string) error {
		h := http.Header{}
		h.Set(headerVersion, version)
		return p.streamError(&http.Response{StatusCode: code, Header: h, Body: readCloser{strings.NewReader(body)}})
	}
	require.NoError(t, answer(200, "3.4.0", ""))
	require.NoError(t, answer(200, "3.9.0", ""))
	require.Error(t, answer(200, "", ""))
	require.Error(t, answer(200, "x.y.z", ""))
	require.ErrorIs(t, answer(412, "3.4.0", "incompatible version\n"), ErrIncompatibleVersion)
	require.ErrorContains(t, answer(412, "3.4.0", "to field mismatch\n"), "to field mismatch")
	require.ErrorContains(t, answer(404, "3.4.0", "error sender not found\n"), "sender not found")
	require.ErrorContains(t, answer(500, "3.4.0", strings.Repeat("x", 1<<20)), "500")
	require.ErrorIs(t, answerError(412, "incompatible version", p.urls.pick()), ErrIncompatibleVersion)
	require.Error(t, answerError(412, "other", p.urls.pick()))
	require.NotErrorIs(t, answerError(403, "cannot process message to mismatch member", p.urls.pick()), ErrMemberRemoved)
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func TestProbing(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	b.tr.AddPeer(1, []string{a.url()})
	rtt, ahead, err := b.tr.peer(1).probeOnce()
	require.NoError(t, err)
	require.Positive(t, rtt)
	require.Less(t, ahead.Abs(), time.Second)
	code, text := a.request(http.MethodGet, probingPath, nil)
	require.Equal(t, 200, code)
	require.Contains(t, text, `{"OK":true,"Now":"`)
}

// TestGarbageOnEveryPath sends noise wherever a peer can send something. The member must answer, and work afterwards.
func TestGarbageOnEveryPath(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	for seed := range 40 {
		noise := make([]byte, 1+seed*97)
		for i := range noise {
			noise[i] = byte((i*i + seed*7919 + i*seed) >> (seed % 5))
		}
		for _, path := range []string{raftPath, snapshotPath, probingPath, streamPath + "/msgapp/2", "/raft/", "/raft/stream"} {
			for _, method := range []string{"GET", "POST", "PUT"} {
				if method == "GET" && strings.HasSuffix(path, "/2") {
					continue
				}
				code, _ := a.request(method, path, bytes.NewReader(noise), headerPeerURLs, strings.ToValidUTF8(fmt.Sprintf("%q", noise[:1]), "?"))
				require.NotZero(t, code)
			}
		}
	}
	a.tr.Send([]*raftpb.Message{numbered(raftpb.MsgApp, 1, 2, 5)})
	require.Eventually(t, func() bool { return len(b.raft.messages()) == 1 }, 15*time.Second, time.Millisecond)
}
