// Package discovery finds the other members of a new cluster through a discovery service, which is any other cluster that speaks
// etcd. Its keys are etcd's, so that members of both kinds find each other:
//
//	/_etcd/registry/<token>/_config/size       how many members the new cluster begins with; whoever founds it writes this
//	/_etcd/registry/<token>/members/<id>       name=url,...: a member writes its own and waits for the others'
//
// The members that were written first belong to the cluster; who comes later is refused.
//
// # Concurrency
//
// Join is called once, and has goroutines only while it runs.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/config"
)

// Errors that no repetition heals.
var (
	ErrSizeNotFound = errors.New("discovery: size key not found")
	ErrBadSize      = errors.New("discovery: size key is bad")
	ErrFull         = errors.New("discovery: cluster is full")
)

const prefix = "/_etcd/registry"

// session is one call of Join.
type session struct {
	*link
	lg    *zap.Logger
	token string
	self  string // the member's key
	size  int
}

// member is a key that a member has written.
type member struct {
	key, urls string
	created   int64 // revision
}

// Join writes a member (its id, and name=url,...) and waits until all members of the cluster have done that. The result is for
// --initial-cluster. Failing requests are repeated until ctx ends.
func Join(ctx context.Context, d *config.Discovery, id uint64, urls string, lg *zap.Logger) (string, error) {
	l, err := connect(d, lg)
	if err != nil {
		return "", fmt.Errorf("failed to join discovery cluster (%w)", err)
	}
	defer l.close()
	s := &session{link: l, lg: lg.With(zap.String("discovery-token", d.Token)), token: d.Token}
	s.self = path.Join(s.members(), strconv.FormatUint(id, 16))
	cluster, err := s.join(ctx, urls)
	if err != nil {
		return "", fmt.Errorf("failed to join discovery cluster (%w)", err)
	}
	s.lg.Info("discovery joined cluster successfully", zap.String("cluster", cluster))
	return cluster, nil
}

func (s *session) members() string { return path.Join(prefix, s.token, "members") }

func (s *session) join(ctx context.Context, urls string) (string, error) {
	if err := s.readSize(ctx); err != nil {
		return "", err
	}
	if _, _, err := s.readMembers(ctx); err != nil { // a full cluster is left as it is
		return "", err
	}
	err := s.do(ctx, "register member itself", func(ctx context.Context, c *conn) error {
		_, err := c.kv.Put(ctx, &pb.PutRequest{Key: []byte(s.self), Value: []byte(urls)})
		return err
	})
	if err != nil {
		return "", err
	}
	for {
		members, rev, err := s.readMembers(ctx)
		if err != nil {
			return "", err
		}
		if len(members) >= s.size {
			return joined(members[:s.size]), nil
		}
		s.lg.Info("waiting for peers from discovery service", zap.Int("clusterSize", s.size), zap.Int("found-peers", len(members)))
		if err := s.wait(ctx, s.members(), rev+1); err != nil {
			return "", err
		}
	}
}

func joined(members []member) string {
	all := make([]string, len(members))
	for i, m := range members {
		all[i] = m.urls
	}
	return strings.Join(all, ",")
}

func (s *session) readSize(ctx context.Context) error {
	kvs, _, err := s.read(ctx, path.Join(prefix, s.token, "_config/size"), false)
	if err != nil {
		return err
	}
	if len(kvs) == 0 {
		return ErrSizeNotFound
	}
	n, err := strconv.Atoi(string(kvs[0].GetValue()))
	if err != nil || n <= 0 {
		return ErrBadSize
	}
	s.size = n
	return nil
}

// readMembers reads the members in the order in which they came, and the revision of that. It fails if so many others came before
// this one that it does not belong to the cluster.
func (s *session) readMembers(ctx context.Context) ([]member, int64, error) {
	kvs, rev, err := s.read(ctx, s.members(), true)
	if err != nil {
		return nil, 0, err
	}
	var found []member
	for _, kv := range kvs {
		m := member{strings.TrimSpace(string(kv.GetKey())), strings.TrimSpace(string(kv.GetValue())), kv.GetCreateRevision()}
		if !strings.Contains(m.urls, "=") {
			s.lg.Warn("invalid peer info returned from discovery service", zap.String("memberKey", m.key), zap.String("memberInfo", m.urls))
			continue
		}
		found = append(found, m)
	}
	slices.SortFunc(found, func(a, b member) int { return int(a.created - b.created) })
	place := slices.IndexFunc(found, func(m member) bool { return m.key == s.self })
	if place < 0 {
		place = len(found)
	}
	if place >= s.size {
		return nil, 0, ErrFull
	}
	return found, rev, nil
}

// read reads a key, or all keys that begin with it, and the revision of that.
func (s *session) read(ctx context.Context, key string, all bool) (kvs []*mvccpb.KeyValue, rev int64, err error) {
	req := &pb.RangeRequest{Key: []byte(key)}
	if all {
		req.RangeEnd = after(key)
	}
	err = s.do(ctx, "cluster status check", func(ctx context.Context, c *conn) error {
		resp, err := c.kv.Range(ctx, req)
		kvs, rev = resp.GetKvs(), resp.GetHeader().GetRevision()
		return err
	})
	return kvs, rev, err
}

// after is the end of the range of keys that begin with a key, whose last byte is not 0xff.
func after(key string) []byte {
	end := []byte(key)
	end[len(end)-1]++
	return end
}

// wait returns when there is an event of a key that begins with prefix, or when the watch has broken: the caller reads anew.
func (s *session) wait(ctx context.Context, prefix string, rev int64) error {
	err := s.call(ctx, 0, func(ctx context.Context, c *conn) error {
		stream, err := c.watch.Watch(ctx)
		if err != nil {
			return err
		}
		create := &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: after(prefix), StartRevision: rev}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return err
		}
		for {
			resp, err := stream.Recv()
			switch {
			case err != nil:
				return err
			case resp.GetCanceled():
				return fmt.Errorf("the watch was canceled: %s", resp.GetCancelReason())
			case len(resp.GetEvents()) > 0:
				return nil
			}
		}
	})
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	s.lg.Warn("the watch at the discovery service has broken", zap.Error(err))
	return pause(ctx, time.Second)
}
