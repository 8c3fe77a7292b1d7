// Package overview gathers looks into all members of a cluster. The member that a client asks, and that knows what the client may
// see, asks the others over their peer URLs, where members trust each other: so a client needs to reach one member only, and no
// member has to act as a client of another.
//
// # Concurrency
//
// All methods may be called from any goroutine.
package overview

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/peers"
)

// Path is where members ask each other for a look, on the peer listener.
const Path = "/keelson/look"

const maxLook = 4 << 20 // bytes of a member's answer

var errOther = errors.New("this member does not tell of itself: it is etcd, or an older Keelson")

// Look describes this member, with at most n prefixes of each kind; none if n is negative.
type Look func(n int) *insightpb.LookResponse

// Config is what an Overview needs.
type Config struct {
	Members  interface{ Members() []*membership.Member }
	MemberID uint64
	Asker    peers.Asker
	Timeout  time.Duration // for a member's answer
}

// Overview is described in the package comment.
type Overview struct {
	cfg Config
	own atomic.Pointer[Look]
}

// New makes an Overview. Other members are told that this one is not ready until Serve.
func New(cfg Config) *Overview { return &Overview{cfg: cfg} }

// Serve sets how this member describes itself.
func (o *Overview) Serve(own Look) { o.own.Store(&own) }

// All describes all members, by name.
func (o *Overview) All(ctx context.Context, n int) []*insightpb.MemberLook {
	var all []*insightpb.MemberLook
	var wg sync.WaitGroup
	for _, m := range o.cfg.Members.Members() {
		l := &insightpb.MemberLook{Id: m.ID, Name: m.Name, IsLearner: m.IsLearner, ClientUrls: m.ClientURLs}
		all = append(all, l)
		wg.Go(func() {
			look, err := o.ask(ctx, m, n)
			if l.Look = look; err != nil {
				l.Error = err.Error()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b *insightpb.MemberLook) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Id, b.Id))
	})
	return all
}

// ask asks a member.
func (o *Overview) ask(ctx context.Context, m *membership.Member, n int) (*insightpb.LookResponse, error) {
	if own := o.own.Load(); m.ID == o.cfg.MemberID && own != nil {
		return (*own)(n), nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.cfg.Timeout)
	defer cancel()
	resp, err := o.cfg.Asker.Get(ctx, m.PeerURLs, Path+"?prefixes="+strconv.Itoa(n))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLook+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusNotFound:
		return nil, errOther
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	case len(body) > maxLook:
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxLook)
	}
	look := &insightpb.LookResponse{}
	return look, proto.Unmarshal(body, look)
}

// ServeHTTP answers another member.
func (o *Overview) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !o.cfg.Asker.Admit(w, r) {
		return
	}
	own := o.own.Load()
	n, err := strconv.Atoi(r.URL.Query().Get("prefixes"))
	switch {
	case err != nil:
		http.Error(w, "prefixes is not a number", http.StatusBadRequest)
	case own == nil:
		http.Error(w, "the member is not ready", http.StatusServiceUnavailable)
	default:
		body, err := proto.Marshal((*own)(n))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(body)
	}
}
