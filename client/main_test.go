package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts n fake members and a client on all of them.
func open(t testing.TB, n int, change ...func(*client.Config)) (*client.Client, *fakestore.Cluster) {
	t.Helper()
	f := fakestore.Start(t, n)
	cfg := client.Config{Endpoints: f.Endpoints()}
	for _, c := range change {
		c(&cfg)
	}
	c, err := client.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c, f
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
