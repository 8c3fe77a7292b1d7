package corruption

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peers"
)

// Path is where members ask each other for hashes, on the peer listener.
const Path = "/members/hashkv"

var errClusterIDMismatch = errors.New("cluster ID mismatch")

// maxMessage bounds a question and an answer, in bytes.
const maxMessage = 64 << 10

// answer is what a peer said; either resp or err is set.
type answer struct {
	id   uint64
	urls []string
	resp *pb.HashKVResponse
	err  error
}

// ask asks all other members for their hash at a revision, at the same time. The answers are in the order of the ids.
func (c *Checker) ask(ctx context.Context, rev int64) []answer {
	var all []answer
	for _, m := range c.cfg.Members.Members() {
		if m.ID != c.cfg.MemberID && len(m.PeerURLs) > 0 {
			all = append(all, answer{id: m.ID, urls: m.PeerURLs})
		}
	}
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			a := &all[i]
			for _, u := range a.urls {
				if a.resp, a.err = c.askOne(ctx, u, rev); a.err == nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return all
}

func (c *Checker) askOne(ctx context.Context, base string, rev int64) (*pb.HashKVResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	body, err := json.Marshal(&pb.HashKVRequest{Revision: rev})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+Path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(peers.ClusterIDHeader, membership.FormatID(c.cfg.Members.ClusterID()))
	resp, err := peers.Direct(c.cfg.Peers).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(io.LimitReader(resp.Body, maxMessage)); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(string(body))
	}
	out := &pb.HashKVResponse{}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, err
	}
	return out, nil
}

// refusal reads the text of a peer's error.
func refusal(body string) error {
	for _, known := range []error{mvcc.ErrCompacted, mvcc.ErrFutureRev, errClusterIDMismatch} {
		if strings.Contains(body, known.Error()) {
			return known
		}
	}
	return fmt.Errorf("unknown error: %s", strings.TrimSpace(body))
}

// Handler answers other members.
func (c *Checker) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := membership.FormatID(c.cfg.Members.ClusterID())
		switch theirs := r.Header.Get(peers.ClusterIDHeader); {
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		case theirs != "" && theirs != id:
			http.Error(w, errClusterIDMismatch.Error(), http.StatusPreconditionFailed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
		if err != nil {
			http.Error(w, "error reading body", http.StatusBadRequest)
			return
		}
		req := &pb.HashKVRequest{}
		if err := json.Unmarshal(body, req); err != nil {
			http.Error(w, "error unmarshalling request", http.StatusBadRequest)
			return
		}
		h, rev, err := c.cfg.Hasher.HashKV(req.Revision)
		if err != nil {
			c.cfg.Logger.Warn("failed to get hashKV", zap.Int64("requested-revision", req.Revision), zap.Error(err))
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		data, err := json.Marshal(&pb.HashKVResponse{
			Header: &pb.ResponseHeader{Revision: rev}, Hash: h.Hash, CompactRevision: h.CompactRev, HashRevision: h.Rev,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set(peers.ClusterIDHeader, id)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data)
	})
}
