// Package survey asks the members of a cluster, all at the same time, what they do and how they fare.
//
// Keelson's members answer the Insight service. Of etcd's members the same is put together, as far as it goes, from their status
// and from what they serve to Prometheus; what cannot be known stays empty, or -1 where 0 would be a statement.
//
// # Concurrency
//
// A Survey is for one goroutine at a time.
package survey

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/client"
)

// Source is where a member's look is from.
type Source string

// The sources.
const (
	Insight Source = "insight" // the member's own service
	Metrics Source = "metrics" // status and metrics: one of etcd's
	Status  Source = "status"  // status only
)

// Member is what was found out about a member.
type Member struct {
	Endpoint        string
	Source          Source
	Look            *insightpb.LookResponse // nil: it did not answer
	Asked, Answered time.Time               // of this side's clock, of the last question alone
	Err             error                   // why it did not answer, or why there is less than there could be
}

// ID is the member's id, 0 if it did not answer.
func (m *Member) ID() uint64 { return m.Look.GetHeader().GetMemberId() }

// Name is the member's name, or else its endpoint.
func (m *Member) Name() string { return cmp.Or(m.Look.GetMember().GetName(), m.Endpoint) }

// Leads says whether the member takes itself for the leader.
func (m *Member) Leads() bool { return m.ID() != 0 && m.Look.GetRaft().GetLeader() == m.ID() }

// Config is what a Survey needs.
type Config struct {
	Client    client.Config // but for the endpoints
	Endpoints []string
	Timeout   time.Duration // of all questions to a member together; a quarter of it for one that did not answer last time
	Prefixes  int           // as in client.Look
}

// Survey keeps connections to members.
type Survey struct {
	cfg     Config
	http    *http.Client
	silent  map[string]bool // endpoints that did not answer last time
	mu      sync.Mutex      // of the map that follows
	clients map[string]*client.Client
}

// New makes a survey. It does not wait for connections.
func New(cfg Config) *Survey {
	transport := &http.Transport{TLSClientConfig: cfg.Client.TLS, Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 1}
	return &Survey{cfg: cfg, http: &http.Client{Transport: transport}, clients: map[string]*client.Client{}, silent: map[string]bool{}}
}

// Close closes the connections.
func (s *Survey) Close() {
	for _, c := range s.clients {
		c.Close()
	}
	s.http.CloseIdleConnections()
}

// Look asks all members, in their order.
func (s *Survey) Look(ctx context.Context) []Member {
	all := make([]Member, len(s.cfg.Endpoints))
	var asking sync.WaitGroup
	for i, ep := range s.cfg.Endpoints {
		timeout := s.cfg.Timeout
		if s.silent[ep] {
			timeout /= 4
		}
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			all[i] = s.ask(ctx, ep)
		})
	}
	asking.Wait()
	for i, ep := range s.cfg.Endpoints {
		s.silent[ep] = all[i].Look == nil
	}
	return all
}

// Members is the list of members, as anyone of them knows it.
func (s *Survey) Members(ctx context.Context) (*client.MemberListResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	errs := []error{client.ErrNoEndpoints}
	for _, ep := range s.cfg.Endpoints {
		c, err := s.client(ep)
		if err == nil {
			var list *client.MemberListResponse
			if list, err = c.MemberListSerializable(ctx); err == nil {
				return list, nil
			}
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs[1:]...)
}

// client is that of an endpoint.
func (s *Survey) client(ep string) (*client.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[ep]; c != nil {
		return c, nil
	}
	cfg := s.cfg.Client
	cfg.Endpoints = []string{ep}
	c, err := client.New(cfg)
	if err == nil {
		s.clients[ep] = c
	}
	return c, err
}

// ask asks one member.
func (s *Survey) ask(ctx context.Context, ep string) Member {
	m := Member{Endpoint: ep, Source: Insight}
	c, err := s.client(ep)
	if err != nil {
		m.Err = err
		return m
	}
	m.Asked = time.Now()
	m.Look, m.Err = c.Look(ctx, ep, s.cfg.Prefixes)
	m.Answered = time.Now()
	if status.Code(m.Err) == codes.Unimplemented {
		s.askEtcd(ctx, c, &m)
	}
	return m
}

// askEtcd puts a look together.
func (s *Survey) askEtcd(ctx context.Context, c *client.Client, m *Member) {
	m.Source = Status
	m.Asked = time.Now()
	st, err := c.Status(ctx, m.Endpoint)
	if m.Err = err; err != nil {
		return
	}
	m.Answered = time.Now()
	m.Look = fromStatus(st)
	if list, err := c.MemberListSerializable(ctx); err == nil {
		addNames(m.Look, list)
	}
	asked := time.Now()
	found, err := s.scrape(ctx, m.Endpoint)
	if m.Err = err; err != nil {
		return
	}
	m.Source, m.Asked, m.Answered = Metrics, asked, time.Now()
	found.addTo(m.Look)
}

// fromStatus is what the status of a member says.
func fromStatus(st *client.StatusResponse) *insightpb.LookResponse {
	look := &insightpb.LookResponse{
		Header: st.Header,
		Member: &insightpb.Member{IsLearner: st.IsLearner, ServerVersion: st.Version, StorageVersion: st.StorageVersion},
		Raft:   &insightpb.Raft{Leader: st.Leader, Term: st.RaftTerm, Committed: st.RaftIndex, Applied: st.RaftAppliedIndex},
		Store: &insightpb.Store{
			DbSize: st.DbSize, DbSizeInUse: st.DbSizeInUse, DbSizeQuota: st.DbSizeQuota, Revision: st.Header.GetRevision(), Keys: -1, KeyBytes: -1,
		},
		Leases: -1, Errors: st.Errors,
	}
	if st.DowngradeInfo.GetEnabled() {
		look.Member.DowngradeTarget = st.DowngradeInfo.TargetVersion
	}
	return look
}

// addNames tells the member's name and who the others are.
func addNames(look *insightpb.LookResponse, list *client.MemberListResponse) {
	for _, m := range list.Members {
		if m.ID == look.Header.GetMemberId() {
			look.Member.Name, look.Member.PeerUrls, look.Member.ClientUrls = m.Name, m.PeerURLs, m.ClientURLs
			continue
		}
		look.Peers = append(look.Peers, &insightpb.Peer{Id: m.ID, Name: m.Name, IsLearner: m.IsLearner, ActiveSince: -1})
	}
	slices.SortFunc(look.Peers, func(a, b *insightpb.Peer) int { return cmp.Compare(a.Id, b.Id) })
}
