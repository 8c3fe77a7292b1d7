package objectstore

import (
	"bytes"
	"context"
	"crypto/aes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"
	kaes "k8s.io/apiserver/pkg/storage/value/encrypt/aes"
)

func secret(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func providers(t testing.TB, keys ...Key) map[string]Transformer {
	t.Helper()
	out := map[string]Transformer{}
	for name, make := range map[string]func(...Key) (Transformer, error){"aesgcm": AESGCM, "aescbc": AESCBC, "secretbox": SecretBox} {
		p, err := make(keys...)
		require.NoError(t, err)
		out[name] = p
	}
	return out
}

func TestTransformers(t *testing.T) {
	one, two := Key{"one", secret(1)}, Key{"two", secret(2)}
	for name, p := range providers(t, one) {
		for _, clear := range []string{"", "x", strings.Repeat("y", 16), strings.Repeat("z", 1000)} {
			v, err := p.ToStore([]byte(clear), []byte("/key"))
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(v, []byte("k8s:enc:"+name+":v1:one:")))
			got, stale, err := p.FromStore(v, []byte("/key"))
			require.NoError(t, err, "%s %q", name, clear)
			require.False(t, stale)
			require.Equal(t, clear, string(got))

			_, _, err = p.FromStore(v[:len(v)-1], []byte("/key"))
			require.Error(t, err)
			if name == "aesgcm" {
				_, _, err = p.FromStore(v, []byte("/other"))
				require.Error(t, err, "a value does not move")
			}
			// Rotated: read with the second key, stale.
			got, stale, err = providers(t, two, one)[name].FromStore(v, []byte("/key"))
			require.NoError(t, err)
			require.True(t, stale)
			require.Equal(t, clear, string(got))
			_, _, err = providers(t, two)[name].FromStore(v, []byte("/key"))
			require.Error(t, err)
			_, _, err = Identity().FromStore(v, nil)
			require.ErrorIs(t, err, errEncrypted)
			// On the way to and from no encryption.
			_, stale, err = Chain(Identity(), p).FromStore(v, []byte("/key"))
			require.NoError(t, err)
			require.True(t, stale)
			_, stale, err = Chain(p, Identity()).FromStore([]byte("{}"), []byte("/key"))
			require.NoError(t, err)
			require.True(t, stale)
		}
	}
	for _, keys := range [][]Key{nil, {{"", secret(1)}}, {{"a:b", secret(1)}}, {{"a", secret(1)[:5]}}} {
		for _, make := range []func(...Key) (Transformer, error){AESGCM, AESCBC, SecretBox} {
			_, err := make(keys...)
			require.Error(t, err)
		}
	}
	_, stale, err := Chain().FromStore([]byte("x"), nil)
	require.NoError(t, err)
	require.False(t, stale)
}

// What kube-apiserver wrote is read, and the other way round.
func TestTransformersAreKubernetes(t *testing.T) {
	block, err := aes.NewCipher(secret(1))
	require.NoError(t, err)
	theirs, err := kaes.NewGCMTransformer(block)
	require.NoError(t, err)
	for name, theirs := range map[string]value.Transformer{"aesgcm": theirs, "aescbc": kaes.NewCBCTransformer(block)} {
		ours := providers(t, Key{"one", secret(1)})[name]
		prefix, aad := "k8s:enc:"+name+":v1:one:", value.DefaultContext("/key")
		v, err := theirs.TransformToStorage(context.Background(), []byte("text"), aad)
		require.NoError(t, err)
		got, _, err := ours.FromStore(append([]byte(prefix), v...), aad)
		require.NoError(t, err)
		require.Equal(t, "text", string(got))
		v, err = ours.ToStore([]byte("text"), aad)
		require.NoError(t, err)
		got, _, err = theirs.TransformFromStorage(context.Background(), v[len(prefix):], aad)
		require.NoError(t, err)
		require.Equal(t, "text", string(got))
	}
}

func TestEncryptionAtRest(t *testing.T) {
	f := start(t)
	with := func(t Transformer) func(*Config) {
		return func(c *Config) {
			c.Transformer = func(r schema.GroupResource) Transformer {
				if r.Resource == "pods" {
					return t
				}
				return nil
			}
		}
	}
	clear := f.store(t).Collection(podKind())
	create(t, clear, pod("a", "old", "word", "needle"))
	p := providers(t, Key{"one", secret(1)})["aesgcm"]
	c := f.store(t, with(Chain(p, Identity()))).Collection(podKind())
	it := create(t, c, pod("a", "new", "word", "needle"))
	r, err := f.client.Get(ctx, it.Key)
	require.NoError(t, err)
	require.NotContains(t, string(r.Kvs[0].Value), "needle")
	list, err := c.List(ctx, ListQuery{})
	require.NoError(t, err)
	require.Equal(t, []string{"new", "old"}, names(list.Items))

	// Encrypted by the next update, even by one that changes nothing, and only once.
	was := list.Items[1].Revision
	up := relabel(t, c, "a", "old", "word", "needle")
	require.Greater(t, up.Revision, was)
	require.Equal(t, up.Revision, relabel(t, c, "a", "old", "word", "needle").Revision)
	r, err = f.client.Get(ctx, up.Key)
	require.NoError(t, err)
	require.NotContains(t, string(r.Kvs[0].Value), "needle")

	// Moved to another key it does not open.
	_, err = f.client.Put(ctx, "/registry/pods/a/moved", string(r.Kvs[0].Value))
	require.NoError(t, err)
	_, err = c.Get(ctx, "a", "moved", "")
	require.True(t, apierrors.IsInternalError(err), err)
	_, err = clear.Get(ctx, "a", "old", "")
	require.True(t, apierrors.IsInternalError(err), err)
}
