package token

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/auth"
)

func config() Config {
	return Config{
		TTL: 10 * time.Second, Patience: 5 * time.Second, Clock: clock.Real, Logger: zap.NewNop(),
		Applied:     func() uint64 { return 100 },
		WaitApplied: func(context.Context, uint64) error { return nil },
	}
}

func TestSimple(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New("simple", config())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go p.Run(ctx)
		prefix := p.Prefix()
		require.Regexp(t, regexp.MustCompile("^[a-zA-Z]{16}$"), prefix)
		require.NotEqual(t, prefix, p.Prefix())
		a, err := p.Assign("a", prefix, 7)
		require.NoError(t, err)
		require.Equal(t, prefix+".7", a)
		b, err := p.Assign("b", p.Prefix(), 8)
		require.NoError(t, err)
		for range 4 { // a is used, b is not
			time.Sleep(6 * time.Second)
			id, ok := p.Lookup(a, 9)
			require.True(t, ok)
			require.Equal(t, auth.Identity{User: "a", Revision: 9}, id)
		}
		_, ok := p.Lookup(b, 9)
		require.False(t, ok)
		time.Sleep(shards * time.Second)
		held := 0
		s := p.(*simple)
		for i := range s.shards {
			s.shards[i].mu.RLock()
			held += len(s.shards[i].tokens)
			s.shards[i].mu.RUnlock()
		}
		require.Zero(t, held, "what has ended takes no room")

		a, _ = p.Assign("a", prefix, 10)
		b, _ = p.Assign("b", prefix, 11)
		p.Forget("a")
		_, ok = p.Lookup(a, 1)
		require.False(t, ok)
		_, ok = p.Lookup(b, 1)
		require.True(t, ok)
		p.Clear()
		_, ok = p.Lookup(b, 1)
		require.False(t, ok)
	})
}

// TestAwait: a member that lags behind waits, but not for ever, and not for nonsense.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		var waited []uint64
		cfg.WaitApplied = func(ctx context.Context, index uint64) error {
			waited = append(waited, index)
			if index == 151 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		p, err := New("simple", cfg)
		require.NoError(t, err)
		require.True(t, p.Await(t.Context(), "x.150"))
		require.True(t, p.Await(t.Context(), "x.99"), "it may have come meanwhile")
		require.False(t, p.Await(t.Context(), "x.1000"))
		for _, token := range []string{"", "x", "x.", ".5", "x.-1", "x.5.6", "x.y", "x.99999999999999999999999"} {
			require.False(t, p.Await(t.Context(), token), token)
		}
		require.Equal(t, []uint64{151, 1001}, waited)
	})
	cfg := config()
	cfg.WaitApplied = func(_ context.Context, index uint64) error {
		require.NotZero(t, index, "an overflow")
		return errors.New("stopped")
	}
	p, err := New("simple", cfg)
	require.NoError(t, err)
	require.False(t, p.Await(t.Context(), "x.150"))
	require.False(t, p.Await(t.Context(), "x.18446744073709551615"))
}

func TestNone(t *testing.T) {
	p, err := New("", config())
	require.NoError(t, err)
	_, err = p.Assign("a", p.Prefix(), 1)
	require.ErrorIs(t, err, auth.ErrFailed)
	_, ok := p.Lookup("x", 1)
	require.False(t, ok)
}

func TestParse(t *testing.T) {
	for spec, want := range map[string]bool{
		"simple": true, "": true, "other": false, "simple,a": false, "simple,a=b,a=c": false, "simple,a=b=c": false,
	} {
		_, err := New(spec, config())
		require.Equal(t, want, err == nil, "%q: %v", spec, err)
		if !want {
			require.ErrorIs(t, err, ErrInvalidOptions, spec)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("jwt,sign-method=RS256,pub-key=a,ttl=1s")
	f.Add("simple,=,=")
	f.Fuzz(func(t *testing.T, spec string) {
		kind, options, err := parse(spec)
		if err == nil && (strings.Contains(kind, ",") || len(options) != strings.Count(spec, ",")) {
			t.Errorf("%q: %q with %v", spec, kind, options)
		}
	})
}
