// Package members lets the proxies of a cluster know each other.
//
// # Model
//
// A proxy registers its address under a prefix that all proxies share, with a lease that it renews, in the format of etcd's naming
// package: clients of any kind can resolve it. It watches the prefix, and tells clients that ask for the members of the
// cluster the proxies instead, so that those who follow the members keep to the proxies.
//
// # Concurrency
//
// A Registry may be used from any number of goroutines.
package members

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// Config is what a Registry needs.
type Config struct {
	Prefix    string // shared by all proxies; "": this one alone
	Advertise string // address of this proxy; "": clients get to know the members
	TTL       int64  // seconds

	KV interface {
		Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error)
		Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error)
	}
	Leases pb.LeaseClient
	// Watch calls f with the events of a range, from a revision on, until ctx ends or it fails.
	Watch  func(ctx context.Context, key, end []byte, rev int64, f func([]*mvccpb.Event)) error
	Clock  clock.Clock
	Logger *zap.Logger
}

// Registry is described in the package comment.
type Registry struct {
	cfg  Config
	name string // of the host

	mu      sync.Mutex
	proxies map[string]*pb.Member // by key
}

// entry is how an endpoint is stored (go.etcd.io/etcd/client/v3/naming).
type entry struct {
	Op       int // 0: added
	Addr     string
	Metadata any // a string of JSON with the host's name
}

// New makes a Registry.
func New(cfg Config) *Registry {
	name, _ := os.Hostname() // it is only shown
	return &Registry{cfg: cfg, name: name, proxies: map[string]*pb.Member{}}
}

// farewell is how long it may take to end a registration.
const farewell = 5 * time.Second

// Run registers the proxy, and follows the others, until ctx ends. It deregisters then.
func (r *Registry) Run(ctx context.Context) {
	if r.cfg.Prefix == "" || r.cfg.Advertise == "" {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { r.again(ctx, "cannot register the proxy", r.register) })
	wg.Go(func() { r.again(ctx, "cannot follow the other proxies", r.follow) })
	wg.Wait()
}

// again calls f until ctx ends.
func (r *Registry) again(ctx context.Context, what string, f func(context.Context) error) {
	upstream.Again(ctx, r.cfg.Clock, f, func(err error) {
		r.cfg.Logger.Warn(what, zap.String("prefix", r.cfg.Prefix), zap.Error(err))
	})
}

// register puts the entry, and renews its lease until that is gone.
func (r *Registry) register(ctx context.Context) error {
	grant, err := r.cfg.Leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: r.cfg.TTL})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_, _ = r.cfg.Leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: grant.ID})
	}()
	meta, err := json.Marshal(map[string]string{"name": r.name})
	if err != nil {
		return err
	}
	value, err := json.Marshal(entry{Addr: r.cfg.Advertise, Metadata: string(meta)})
	if err != nil {
		return err
	}
	if _, err := r.cfg.KV.Put(ctx, &pb.PutRequest{Key: []byte(r.cfg.Prefix + "/" + r.cfg.Advertise), Value: value, Lease: grant.ID}); err != nil {
		return err
	}
	r.cfg.Logger.Info("registered the proxy", zap.String("addr", r.cfg.Advertise), zap.Int64("lease-ttl", grant.TTL))
	return r.renew(ctx, grant.ID, grant.TTL)
}

// renew keeps a lease until ctx ends or it is gone.
func (r *Registry) renew(ctx context.Context, id, ttl int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := r.cfg.Leases.LeaseKeepAlive(ctx)
	if err != nil {
		return err
	}
	t := r.cfg.Clock.NewTicker(max(time.Duration(ttl)*time.Second/3, 100*time.Millisecond))
	defer t.Stop()
	for {
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			_, err = s.Recv() // says why
			return err
		}
		resp, err := s.Recv()
		if err != nil {
			return err
		}
		if resp.TTL <= 0 {
			return errors.New("the lease has expired")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C():
		}
	}
}

// follow keeps the list of proxies until ctx ends or it fails.
func (r *Registry) follow(ctx context.Context) error {
	key, end := namespace.Prefix(r.cfg.Prefix+"/").Interval(nil, []byte{0})
	resp, err := r.cfg.KV.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: end})
	if err != nil {
		return err
	}
	r.mu.Lock()
	clear(r.proxies)
	for _, kv := range resp.Kvs {
		r.set(kv)
	}
	r.mu.Unlock()
	return r.cfg.Watch(ctx, key, end, resp.Header.GetRevision()+1, func(events []*mvccpb.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, ev := range events {
			if delete(r.proxies, string(ev.Kv.Key)); ev.Type == mvccpb.Event_PUT {
				r.set(ev.Kv)
			}
		}
	})
}

// set adds what a key says. What is no entry of a proxy is left out.
func (r *Registry) set(kv *mvccpb.KeyValue) {
	m, err := parse(kv.Value)
	if err != nil {
		r.cfg.Logger.Warn("an entry under the prefix of the proxies is none of a proxy", zap.ByteString("key", kv.Key), zap.Error(err))
		return
	}
	if m != nil {
		r.proxies[string(kv.Key)] = m
	}
}

// parse reads an entry, nil: of nobody.
func parse(value []byte) (*pb.Member, error) {
	var e entry
	if err := json.Unmarshal(value, &e); err != nil {
		return nil, err
	}
	if e.Op != 0 {
		return nil, nil
	}
	meta, ok := e.Metadata.(string)
	if !ok {
		return nil, errors.New("it has no metadata")
	}
	var host struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(meta), &host); err != nil {
		return nil, err
	}
	return &pb.Member{Name: host.Name, ClientURLs: []string{e.Addr}}, nil
}

// List returns what clients get to know instead of the members, nil: the members.
func (r *Registry) List() []*pb.Member {
	if r.cfg.Advertise == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*pb.Member
	for _, m := range r.proxies {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *pb.Member) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ClientURLs[0], b.ClientURLs[0]))
	})
	if len(out) == 0 {
		out = append(out, &pb.Member{Name: r.name, ClientURLs: []string{r.cfg.Advertise}})
	}
	return out
}
