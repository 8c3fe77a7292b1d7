package token

import (
	"context"
	"hash/maphash"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/server/auth"
)

// shards is how many parts the table of tokens has.
const shards = 32

// simple keeps the tokens that were assigned.
type simple struct {
	cfg    Config
	began  time.Time
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu     sync.RWMutex
	tokens map[string]*session
}

// session is a token's user, and when it ends unless it is used: in nanoseconds since the table was made.
type session struct {
	user string
	ends atomic.Int64
}

func newSimple(cfg Config) *simple {
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	t := &simple{cfg: cfg, began: cfg.Clock.Now(), seed: maphash.MakeSeed()}
	t.Clear()
	return t
}

func (t *simple) now() int64 { return int64(t.cfg.Clock.Now().Sub(t.began)) }

func (t *simple) shardOf(token string) *shard { return &t.shards[maphash.String(t.seed, token)%shards] }

// Prefix is Provider.
func (t *simple) Prefix() string { return randomPrefix() }

// TTL is Provider.
func (t *simple) TTL() time.Duration { return t.cfg.TTL }

// Assign is Provider.
func (t *simple) Assign(user, prefix string, index uint64) (string, error) {
	token := prefix + "." + strconv.FormatUint(index, 10)
	s := &session{user: user}
	s.ends.Store(t.now() + int64(t.cfg.TTL))
	sh := t.shardOf(token)
	sh.mu.Lock()
	sh.tokens[token] = s
	sh.mu.Unlock()
	return token, nil
}

// Issue is Provider.
func (t *simple) Issue(_ auth.Identity, assigned string) (string, error) { return assigned, nil }

// Lookup is Provider. A token that is used lives on.
func (t *simple) Lookup(token string, revision uint64) (auth.Identity, bool) {
	sh := t.shardOf(token)
	sh.mu.RLock()
	s := sh.tokens[token]
	sh.mu.RUnlock()
	now := t.now()
	if s == nil || s.ends.Load() < now {
		return auth.Identity{}, false
	}
	s.ends.Store(now + int64(t.cfg.TTL))
	return auth.Identity{User: s.user, Revision: revision}, true
}

// Await is Provider.
func (t *simple) Await(ctx context.Context, token string) bool {
	prefix, number, _ := strings.Cut(token, ".")
	index, err := strconv.ParseUint(number, 10, 64)
	if err != nil || prefix == "" || index == math.MaxUint64 {
		return false
	}
	if t.cfg.Applied() > index { // perhaps since the token was looked up
		return true
	}
	// Anybody can make up a token with a large number, so the wait has an end.
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Patience)
	defer cancel()
	return t.cfg.WaitApplied(ctx, index+1) == nil
}

// Forget is Provider.
func (t *simple) Forget(user string) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for token, s := range sh.tokens {
			if s.user == user {
				delete(sh.tokens, token)
			}
		}
		sh.mu.Unlock()
	}
}

// Clear is Provider.
func (t *simple) Clear() {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		sh.tokens = make(map[string]*session)
		sh.mu.Unlock()
	}
}

// Run drops the tokens that have ended: a shard at a time, so that nobody waits long.
func (t *simple) Run(ctx context.Context) {
	ticker := t.cfg.Clock.NewTicker(time.Second / 4)
	defer ticker.Stop()
	for i := 0; ; i = (i + 1) % shards {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
		t.sweep(&t.shards[i])
	}
}

func (t *simple) sweep(sh *shard) {
	now := t.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for token, s := range sh.tokens {
		if s.ends.Load() < now {
			delete(sh.tokens, token)
		}
	}
}
