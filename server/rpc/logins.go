package rpc

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/auth"
)

// logins hands out tokens to users whose passwords fit. A token costs a command in the log of every member; so those of a
// user who log in at the same time or soon one after the other get the same one, and a storm of logins costs as many
// commands as there are users and moments. Tokens end a while after their last use; one that is handed out again is so young
// that it makes no difference.
type logins struct {
	clock clock.Clock
	fresh time.Duration // how old a token may be to be handed out again

	mu     sync.Mutex
	recent map[string]*login // by user
}

// login is a token, or the making of one.
type login struct {
	done     chan struct{} // closed when the rest is set
	revision uint64        // of users and roles, by which the token was made
	token    string
	err      error
	gaveUp   bool // who made it went away
	at       time.Time
}

// Bounds of logins.
const (
	maxFresh  = time.Second
	maxRecent = 4096 // users
)

func newLogins(c clock.Clock, ttl time.Duration) *logins {
	return &logins{clock: c, fresh: min(maxFresh, ttl/10), recent: make(map[string]*login)}
}

// token returns a token of a user whose password was checked at revision; create makes one.
func (l *logins) token(ctx context.Context, user string, revision uint64, create func() (string, error)) (string, error) {
	for {
		got, mine := l.join(user, revision)
		if mine {
			l.land(ctx, user, got, create)
			return got.token, got.err
		}
		select {
		case <-got.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if !got.gaveUp {
			return got.token, got.err
		}
	}
}

// join finds a token that may be handed out, or begins one: then it is the caller's to make.
func (l *logins) join(user string, revision uint64) (_ *login, mine bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := l.recent[user]; got != nil && got.revision == revision && !l.old(got) {
		return got, false
	}
	if len(l.recent) >= maxRecent {
		for name, got := range l.recent {
			if l.old(got) {
				delete(l.recent, name)
			}
		}
	}
	made := &login{done: make(chan struct{}), revision: revision}
	if len(l.recent) < maxRecent {
		l.recent[user] = made
	}
	return made, true
}

func (l *logins) old(got *login) bool {
	select {
	case <-got.done:
		return got.err != nil || l.clock.Now().Sub(got.at) >= l.fresh
	default:
		return false
	}
}

// land makes a token. One that failed is not handed out again.
func (l *logins) land(ctx context.Context, user string, made *login, create func() (string, error)) {
	made.at = l.clock.Now()
	made.token, made.err = create()
	if made.err != nil {
		made.gaveUp = ctx.Err() != nil
		l.mu.Lock()
		if l.recent[user] == made {
			delete(l.recent, user)
		}
		l.mu.Unlock()
	}
	close(made.done)
}

// assign has the cluster assign a token to a user, whose password was checked at a state. changed: the state is another one
// by now, the password may be another one, too.
func (s *AuthService) assign(ctx context.Context, name string, checked *auth.Snapshot) (token string, changed bool, err error) {
	token, err = s.logins.token(ctx, name, checked.Revision(), func() (string, error) {
		resp, err := propose[*pb.AuthenticateResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{
			Authenticate: &pb.InternalAuthenticateRequest{Name: name, SimpleToken: s.cfg.Tokens.Prefix()},
		})
		if err != nil {
			return "", err
		}
		return s.cfg.Tokens.Issue(auth.Identity{User: name, Revision: checked.Revision()}, resp.Token)
	})
	return token, err == nil && checked.Revision() != s.cfg.Access.State.Load().Revision(), err
}
