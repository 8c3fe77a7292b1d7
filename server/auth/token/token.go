package token

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/auth"
)

// Errors of a configuration.
var (
	ErrInvalidOptions = errors.New("auth: invalid auth options")
	ErrInvalidMethod  = errors.New("auth: invalid auth signature method")
	ErrMissingKey     = errors.New("auth: missing key data")
	ErrKeyMismatch    = errors.New("auth: public and private keys don't match")
	// ErrVerifyOnly: this member has only the public key.
	ErrVerifyOnly = errors.New("auth: token signing attempted with verify-only key")
)

// Provider makes and reads the tokens of one kind.
type Provider interface {
	auth.Sessions

	// Prefix is the random part of the next token. The command Authenticate carries it.
	Prefix() string
	// TTL is how long a token is good, since its last use or since it was made.
	TTL() time.Duration
	// Assign notes the token of a user when the command is applied; index is that of the entry before it.
	Assign(user, prefix string, index uint64) (string, error)
	// Issue is what the client gets for what was assigned to its user at a revision.
	Issue(id auth.Identity, assigned string) (string, error)

	// Lookup finds out who holds a token; revision is the present one.
	Lookup(token string, revision uint64) (auth.Identity, bool)
	// Await returns true when a token that was unknown may have become known.
	Await(ctx context.Context, token string) bool

	// Run does what is to be done now and then, until ctx ends.
	Run(ctx context.Context)
}

// Config is what providers need.
type Config struct {
	TTL time.Duration // of a simple token since its last use; 0: DefaultTTL
	// Applied is the index up to which this member has applied the log.
	Applied func() uint64
	// WaitApplied returns when an index has been applied.
	WaitApplied func(ctx context.Context, index uint64) error
	Patience    time.Duration // how long to wait for an index
	Clock       clock.Clock
	Logger      *zap.Logger
}

// DefaultTTL is how long tokens are good.
const DefaultTTL = 5 * time.Minute

// New makes the provider that spec names: "simple", "jwt,sign-method=...,pub-key=...,priv-key=...,ttl=...", or "" for none.
func New(spec string, cfg Config) (Provider, error) {
	kind, options, err := parse(spec)
	if err != nil {
		return nil, err
	}
	switch kind {
	case "":
		return none{}, nil
	case "simple":
		return newSimple(cfg), nil
	case "jwt":
		return newWebTokens(options, cfg)
	}
	return nil, fmt.Errorf("%w: %q: tokens of this kind are unknown", ErrInvalidOptions, kind)
}

// parse splits kind,name=value,name=value.
func parse(spec string) (kind string, options map[string]string, err error) {
	parts := strings.Split(spec, ",")
	options = make(map[string]string)
	for _, p := range parts[1:] {
		name, value, ok := strings.Cut(p, "=")
		if !ok || strings.Contains(value, "=") {
			return "", nil, fmt.Errorf("%w: %q is not name=value", ErrInvalidOptions, p)
		}
		if _, twice := options[name]; twice {
			return "", nil, fmt.Errorf("%w: %s is given twice", ErrInvalidOptions, name)
		}
		options[name] = value
	}
	return parts[0], options, nil
}

// letters are what the random part of a simple token is made of.
const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// prefixLength is the length of that part.
const prefixLength = 16

// randomPrefix draws letters with equal chances: bytes from the largest multiple of their number on are drawn again.
func randomPrefix() string {
	const limit = 256 - 256%len(letters)
	out := make([]byte, 0, prefixLength)
	var buf [2 * prefixLength]byte
	for {
		_, _ = rand.Read(buf[:]) // never fails
		for _, b := range buf {
			if int(b) < limit {
				if out = append(out, letters[int(b)%len(letters)]); len(out) == prefixLength {
					return string(out)
				}
			}
		}
	}
}

// none gives nobody a token: users are known by their certificates only.
type none struct{}

func (none) Forget(string)      {}
func (none) Clear()             {}
func (none) Prefix() string     { return "" }
func (none) TTL() time.Duration { return 0 }
func (none) Assign(string, string, uint64) (string, error) {
	return "", auth.ErrFailed
}
func (none) Issue(auth.Identity, string) (string, error) { return "", auth.ErrFailed }
func (none) Lookup(string, uint64) (auth.Identity, bool) { return auth.Identity{}, false }
func (none) Await(context.Context, string) bool          { return false }
func (none) Run(context.Context)                         {}
