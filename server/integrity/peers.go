package integrity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peers"
)

// Paths on the peer listener.
const (
	Path      = "/keelson/integrity"
	StatePath = "/keelson/state"
)

const (
	// sumVersion changes with what the sums are made of: sums of different versions are not compared.
	sumVersion = 1
	// maxAnswer bounds an answer, in bytes, maxCompactions what it may list.
	maxAnswer      = 4 << 10
	maxCompactions = 64
)

// errUnknown says that a peer does not take part: it is a member of etcd, or of another version.
var errUnknown = errors.New("the member does not compare")

// point is where sums are compared.
type point struct{ Rev, Compact int64 }

// answer is what a member says of itself.
type answer struct {
	Version     int     `json:"version"`
	First       int64   `json:"first"`
	Last        int64   `json:"last"`
	Compactions []int64 `json:"compactions"`
	Quarantined bool    `json:"quarantined,omitempty"`
	// Sum is that at the point that was asked for, in hexadecimal; empty: it is not known.
	Sum string `json:"sum,omitempty"`

	sum   uint64
	known bool
}

func (a *answer) sums() mvcc.SumRange {
	return mvcc.SumRange{First: a.First, Last: a.Last, Compactions: a.Compactions}
}

// parseAnswer reads an answer.
func parseAnswer(body []byte) (*answer, error) {
	a := &answer{}
	if err := json.Unmarshal(body, a); err != nil {
		return nil, fmt.Errorf("integrity: answer: %w", err)
	}
	switch {
	case a.Version != sumVersion:
		return nil, errUnknown
	case a.First < 0 || a.Last < a.First || len(a.Compactions) > maxCompactions || !slices.IsSorted(a.Compactions):
		return nil, fmt.Errorf("integrity: an answer with the revisions %d to %d and the compactions %v", a.First, a.Last, a.Compactions)
	}
	if a.Sum != "" {
		var err error
		if a.sum, err = strconv.ParseUint(a.Sum, 16, 64); err != nil {
			return nil, fmt.Errorf("integrity: answer: %w", err)
		}
		a.known = true
	}
	return a, nil
}

// own is this member's answer.
func (c *Checker) own(p point) *answer {
	r := c.cfg.Store.Sums()
	a := &answer{Version: sumVersion, First: r.First, Last: r.Last, Compactions: r.Compactions, Quarantined: c.Quarantined()}
	if a.sum, a.known = c.cfg.Store.Sum(p.Rev, p.Compact); a.known {
		a.Sum = strconv.FormatUint(a.sum, 16)
	}
	return a
}

// Handler answers other members.
func (c *Checker) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !c.asker().Admit(w, r) {
			return
		}
		var p point
		for name, to := range map[string]*int64{"rev": &p.Rev, "compact": &p.Compact} {
			var err error
			if *to, err = strconv.ParseInt(r.URL.Query().Get(name), 10, 64); err != nil {
				http.Error(w, fmt.Sprintf("%s must be a number", name), http.StatusBadRequest)
				return
			}
		}
		body, err := json.Marshal(c.own(p))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
}

// asker asks members of this cluster, and admits them.
func (c *Checker) asker() peers.Asker {
	return peers.Asker{Client: c.cfg.Peers, Cluster: c.cfg.Members.ClusterID}
}

// ask asks the other members, at the same time. Those without an answer are missing.
func (c *Checker) ask(ctx context.Context, others []*membership.Member, p point) map[uint64]*answer {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	answers := make([]*answer, len(others))
	var wg sync.WaitGroup
	for i, m := range others {
		wg.Go(func() {
			a, err := c.askOne(ctx, m, p)
			if err != nil && ctx.Err() == nil && !errors.Is(err, errUnknown) {
				c.quiet.once(m.ID, err)
			}
			answers[i] = a
		})
	}
	wg.Wait()
	out := map[uint64]*answer{}
	for i, m := range others {
		if answers[i] != nil {
			out[m.ID] = answers[i]
		}
	}
	return out
}

func (c *Checker) askOne(ctx context.Context, m *membership.Member, p point) (*answer, error) {
	resp, err := c.asker().Get(ctx, m.PeerURLs, fmt.Sprintf("%s?rev=%d&compact=%d", Path, p.Rev, p.Compact))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		c.cfg.Stranger()
		return nil, errUnknown
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("integrity: %s", resp.Status)
	}
	return parseAnswer(body)
}
