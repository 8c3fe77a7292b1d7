package verify

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

const (
	waiting = 30 * time.Second
	tick    = time.Millisecond
)

func TestCheck(t *testing.T) {
	v := New(uint(bcrypt.MinCost))
	hash, err := v.Hash(t.Context(), "secret")
	require.NoError(t, err)
	other, err := v.Hash(t.Context(), "other")
	require.NoError(t, err)
	for range 2 { // computed, then remembered
		for _, c := range []struct {
			hash     []byte
			password string
			want     bool
		}{{hash, "secret", true}, {hash, "other", false}, {other, "secret", false}, {other, "other", true}, {nil, "secret", false}, {hash, "", false}} {
			got, err := v.Check(t.Context(), c.hash, c.password)
			require.NoError(t, err)
			require.Equal(t, c.want, got, "%q", c.password)
		}
	}
	require.Len(t, v.fits, 2)
	require.Empty(t, v.flying)
	_, err = v.Hash(t.Context(), fmt.Sprintf("%073d", 1))
	require.ErrorIs(t, err, bcrypt.ErrPasswordTooLong)
	require.Equal(t, bcrypt.DefaultCost, New(3).Cost())
	require.Equal(t, bcrypt.DefaultCost, New(32).Cost())
}

// TestRemembered: what is remembered takes no slot, what is not waits for one.
func TestRemembered(t *testing.T) {
	v := New(uint(bcrypt.MinCost))
	hash, err := v.Hash(t.Context(), "secret")
	require.NoError(t, err)
	ok, err := v.Check(t.Context(), hash, "secret")
	require.NoError(t, err)
	require.True(t, ok)
	for range cap(v.slot) {
		require.NoError(t, v.enter(t.Context()))
	}
	ok, err = v.Check(t.Context(), hash, "secret")
	require.NoError(t, err)
	require.True(t, ok)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = v.Check(ctx, hash, "wrong")
	require.ErrorIs(t, err, context.Canceled)
	_, err = v.Hash(ctx, "wrong")
	require.ErrorIs(t, err, context.Canceled)
}

// TestTogether: equal comparisons are made once; if the one that makes it gives up, another one does.
func TestTogether(t *testing.T) {
	v := New(uint(bcrypt.MinCost))
	hash, err := v.Hash(t.Context(), "secret")
	require.NoError(t, err)
	for range cap(v.slot) {
		require.NoError(t, v.enter(t.Context()))
	}
	impatient, giveUp := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := v.Check(impatient, hash, "secret")
		first <- err
	}()
	require.Eventually(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.flying) == 1
	}, waiting, tick)
	var wg sync.WaitGroup
	var fit atomic.Int32
	for range 20 {
		wg.Go(func() {
			if ok, err := v.Check(t.Context(), hash, "secret"); err == nil && ok {
				fit.Add(1)
			}
		})
	}
	giveUp()
	require.ErrorIs(t, <-first, context.Canceled)
	for range cap(v.slot) {
		v.leave()
	}
	wg.Wait()
	require.Equal(t, int32(20), fit.Load())
}

// TestBounded: no more is remembered than there is room for.
func TestBounded(t *testing.T) {
	v := New(uint(bcrypt.MinCost))
	for i := range maxRemembered + 10 {
		f := &flight{done: make(chan struct{}), fits: true}
		v.land(v.digest(nil, fmt.Sprint(i)), f)
	}
	require.Len(t, v.fits, maxRemembered)
}
