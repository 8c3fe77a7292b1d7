// Package verify compares passwords with their bcrypt hashes, and makes such hashes.
//
// A comparison is meant to be slow: tens of milliseconds of a processor. So only a few run at a time, the rest wait; and what
// was found to fit is remembered, not as the password but as a keyed hash (HMAC-SHA-256 under a key that is made anew with
// every Verifier) over the stored hash and the password. Since the stored hash is part of it, a changed password is not
// remembered. Equal comparisons that come together are made once.
//
// # Concurrency
//
// A Verifier may be used from any number of goroutines.
package verify

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"runtime"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// maxRemembered bounds how many credentials are remembered.
const maxRemembered = 8192

// Verifier is described in the package comment.
type Verifier struct {
	cost int
	key  [sha256.Size]byte
	slot chan struct{} // one for each computation under way

	mu     sync.Mutex
	fits   map[digest]struct{}
	flying map[digest]*flight
}

type digest [sha256.Size]byte

// flight is a comparison under way.
type flight struct {
	done     chan struct{}
	fits     bool
	answered bool // false: its client gave up
}

// New makes a Verifier that hashes with a cost. A cost that bcrypt does not have is replaced by its default.
func New(cost uint) *Verifier {
	if cost < uint(bcrypt.MinCost) || cost > uint(bcrypt.MaxCost) {
		cost = uint(bcrypt.DefaultCost)
	}
	v := &Verifier{
		cost: int(cost), slot: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		fits: make(map[digest]struct{}), flying: make(map[digest]*flight),
	}
	_, _ = rand.Read(v.key[:]) // never fails
	return v
}

// Cost is the cost of new hashes.
func (v *Verifier) Cost() int { return v.cost }

// Hash hashes a password. Errors: bcrypt.ErrPasswordTooLong, the error of ctx.
func (v *Verifier) Hash(ctx context.Context, password string) ([]byte, error) {
	if err := v.enter(ctx); err != nil {
		return nil, err
	}
	defer v.leave()
	return bcrypt.GenerateFromPassword([]byte(password), v.cost)
}

func (v *Verifier) enter(ctx context.Context) error {
	select {
	case v.slot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *Verifier) leave() { <-v.slot }

// Check says whether a password fits a hash. The error is that of ctx.
func (v *Verifier) Check(ctx context.Context, hash []byte, password string) (bool, error) {
	d := v.digest(hash, password)
	for {
		f, mine, known := v.join(d)
		switch {
		case known:
			return true, nil
		case mine:
			err := v.compare(ctx, f, hash, password)
			v.land(d, f)
			return f.fits, err
		}
		select {
		case <-f.done:
			if f.answered {
				return f.fits, nil
			}
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// join looks for an answer, or else for a comparison under way, or else begins one.
func (v *Verifier) join(d digest) (f *flight, mine, known bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, known = v.fits[d]; known {
		return nil, false, true
	}
	if f = v.flying[d]; f != nil {
		return f, false, false
	}
	f = &flight{done: make(chan struct{})}
	v.flying[d] = f
	return f, true, false
}

func (v *Verifier) compare(ctx context.Context, f *flight, hash []byte, password string) error {
	if err := v.enter(ctx); err != nil {
		return err
	}
	defer v.leave()
	f.fits, f.answered = bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil, true
	return nil
}

// land ends a comparison. What did not fit is not remembered: there is no end of wrong passwords.
func (v *Verifier) land(d digest, f *flight) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.flying, d)
	if f.fits {
		for old := range v.fits { // any one
			if len(v.fits) < maxRemembered {
				break
			}
			delete(v.fits, old)
		}
		v.fits[d] = struct{}{}
	}
	close(f.done)
}

func (v *Verifier) digest(hash []byte, password string) (d digest) {
	h := hmac.New(sha256.New, v.key[:])
	_ = binary.Write(h, binary.BigEndian, uint64(len(hash)))
	h.Write(hash)
	h.Write([]byte(password))
	h.Sum(d[:0])
	return d
}
