package rpc

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestLoginsShareTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, made := newLogins(clock.Real, time.Minute), 0
		login := func(ctx context.Context, user string, revision uint64, takes time.Duration, err error) (string, error) {
			return l.token(ctx, user, revision, func() (string, error) {
				made++
				token := fmt.Sprint(user, made)
				time.Sleep(takes)
				return token, err
			})
		}
		want := func(token, user string, revision uint64) {
			t.Helper()
			got, err := login(t.Context(), user, revision, 0, nil)
			require.NoError(t, err)
			require.Equal(t, token, got)
		}
		want("a1", "a", 1)
		want("a1", "a", 1)
		want("b2", "b", 1)
		want("a3", "a", 2) // users and roles have changed
		time.Sleep(time.Second)
		want("a4", "a", 2)

		// Those that come meanwhile wait, and share also the failure.
		failed := errors.New("no leader")
		outcomes := make(chan error, 5)
		for range cap(outcomes) {
			go func() { _, err := login(t.Context(), "c", 1, time.Second, failed); outcomes <- err }()
		}
		for range cap(outcomes) {
			require.ErrorIs(t, <-outcomes, failed)
		}
		require.Equal(t, 5, made)
		want("c6", "c", 1)

		// What failed since its caller went away is made again for the others.
		ctx, cancel := context.WithCancel(t.Context())
		go func() { _, err := login(ctx, "d", 1, time.Second, context.Canceled); outcomes <- err }()
		synctest.Wait()
		go func() { _, err := login(t.Context(), "d", 1, 0, nil); outcomes <- err }()
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-outcomes, context.Canceled)
		require.NoError(t, <-outcomes)

		// A caller that goes away while it waits for another one's.
		go func() { _, err := login(t.Context(), "e", 1, time.Second, nil); outcomes <- err }()
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := login(ctx, "e", 1, 0, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, <-outcomes)
	})
}

func TestLoginsOfManyUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLogins(clock.Real, time.Minute)
		login := func(user int) {
			_, err := l.token(t.Context(), fmt.Sprint(user), 1, func() (string, error) { return "t", nil })
			require.NoError(t, err)
		}
		for user := range maxRecent + 10 {
			login(user)
		}
		require.Len(t, l.recent, maxRecent)
		time.Sleep(2 * time.Second)
		login(-1)
		require.Len(t, l.recent, 1)
	})
}
