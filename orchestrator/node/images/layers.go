package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/orchestrator/node/images/unpack"
)

const (
	layerMeta = "layer.json"
	// emptyLayer is a layer with nothing in it: an overlay wants at least two when it is read-only, and one at any time.
	emptyLayer = "empty"
)

// meta is the note on an unpacked layer.
type meta struct {
	Bytes  int64        `json:"bytes"`
	Inodes int64        `json:"inodes"`
	Opaque bool         `json:"opaque,omitempty"` // it hides all layers below
	Root   *unpack.Attr `json:"root,omitempty"`
	Boot   string       `json:"boot,omitempty"` // the start of the machine that unpacked it; empty when it is on the disk for good
}

// A layer lies under "d-" and its own digest if it is the same on whatever it is put, and under "c-" and the digest of the
// chain if it leans on the layers below.
func diffKey(l layerRef) string { return "d-" + l.Diff.Encoded() }

// chainKeys returns the names under which the layers of an image lie if they lean on others.
func chainKeys(layers []layerRef) []string {
	keys := make([]string, len(layers))
	var chain digest.Digest
	for i, l := range layers {
		if i == 0 {
			chain = l.Diff
		} else {
			chain = digest.FromString(chain.String() + " " + l.Diff.String())
		}
		keys[i] = "c-" + chain.Encoded()
	}
	return keys
}

// layerKeys returns all names that the layers of an image may have.
func layerKeys(layers []layerRef) []string {
	keys := chainKeys(layers)
	for _, l := range layers {
		keys = append(keys, diffKey(l))
	}
	return keys
}

func (s *Store) layerDir(key string) string { return filepath.Join(s.dir, layersDir, key, "fs") }

func (s *Store) layerMeta(key string) (m meta, err error) {
	b, err := os.ReadFile(filepath.Join(s.dir, layersDir, key, layerMeta))
	if err != nil {
		return m, fmt.Errorf("images: %w", err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("images: the note on layer %s: %w", key, err)
	}
	return m, nil
}

func (s *Store) hasLayer(key string) bool {
	_, err := os.Stat(filepath.Join(s.dir, layersDir, key, layerMeta))
	return err == nil
}

// unpackAll sees to it that the layers of an image are unpacked, and returns their names, the lowest first. The caller has
// claimed layerKeys. ready waits until the blob of a layer is there. Layers that stand alone are unpacked side by side, those
// that lean on others after these.
func (s *Store) unpackAll(ctx context.Context, o *op, layers []layerRef, ready func(context.Context, int) error) ([]string, error) {
	chain := chainKeys(layers)
	keys := make([]string, len(layers))
	g, gctx := errgroup.WithContext(ctx)
	for i, l := range layers {
		g.Go(func() error {
			if err := ready(gctx, i); err != nil {
				return err
			}
			if s.hasLayer(chain[i]) {
				keys[i] = chain[i]
				return nil
			}
			err := s.unpackLayer(gctx, o, l, diffKey(l), unpack.Options{})
			if errors.Is(err, unpack.ErrNeedsParents) {
				return nil // below
			}
			keys[i] = diffKey(l)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i, l := range layers {
		if keys[i] != "" {
			continue
		}
		opts := unpack.Options{OnParents: true}
		for _, k := range slices.Backward(keys[:i]) {
			opts.Parents = append(opts.Parents, s.layerDir(k))
		}
		if err := s.unpackLayer(ctx, o, l, chain[i], opts); err != nil {
			return nil, err
		}
		keys[i] = chain[i]
	}
	return keys, nil
}

// unpackLayer unpacks a layer once, whoever asks for it.
func (s *Store) unpackLayer(ctx context.Context, o *op, l layerRef, key string, opts unpack.Options) error {
	if s.hasLayer(key) {
		return nil
	}
	lock, err := flockWait(ctx, filepath.Join(s.dir, ingestDir, key), nil)
	if err != nil {
		return err
	}
	defer func() {
		_ = os.Remove(lock.Name())
		_ = lock.Close()
	}()
	if s.hasLayer(key) { // somebody else has unpacked it meanwhile
		return nil
	}
	done, err := acquire(ctx, s.unpacks)
	if err != nil {
		return err
	}
	defer done()
	dir, err := o.dir()
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, key)
	defer func() { _ = os.RemoveAll(tmp) }()
	if err := os.RemoveAll(tmp); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(tmp, "fs"), 0o755); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	res, err := s.unpackInto(ctx, l, filepath.Join(tmp, "fs"), opts)
	if err != nil {
		return err
	}
	return s.keepLayer(tmp, key, meta{Bytes: res.Bytes, Inodes: res.Inodes, Opaque: res.Opaque, Root: res.Root, Boot: s.boot})
}

// keepLayer moves a complete layer to its place.
func (s *Store) keepLayer(tmp, key string, m meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	if err := os.WriteFile(filepath.Join(tmp, layerMeta), b, 0o600); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, layersDir, key)); err != nil {
		return fmt.Errorf("images: %w", err)
	}
	s.settler.add(key)
	return nil
}

// unpackInto unpacks the blob of a layer and checks that its content is what the configuration says.
func (s *Store) unpackInto(ctx context.Context, l layerRef, dir string, opts unpack.Options) (unpack.Result, error) {
	f, err := os.Open(s.blobPath(l.Blob))
	if err != nil {
		return unpack.Result{}, fmt.Errorf("images: layer %s: %w", l.Diff, err)
	}
	defer func() { _ = f.Close() }()
	plain, err := decompress(f)
	if err != nil {
		return unpack.Result{}, fmt.Errorf("images: layer %s is %w: %w", l.Diff, ErrCorrupt, err)
	}
	defer plain.Close()
	sum := digest.SHA256.Hash()
	ahead := readAhead(plain, sum)
	defer ahead.stop()
	res, err := unpack.Layer(ctx, ahead, dir, opts)
	if errors.Is(err, unpack.ErrNeedsParents) {
		return res, err
	}
	if err == nil {
		_, err = io.Copy(io.Discard, ahead) // what lies behind the end of the archive counts
	}
	if err != nil {
		return res, fmt.Errorf("images: unpack layer %s: %w", l.Diff, err)
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != l.Diff {
		return res, fmt.Errorf("images: layer %s is %w: its content has the digest %s", l.Diff, ErrCorrupt, got)
	}
	return res, nil
}
