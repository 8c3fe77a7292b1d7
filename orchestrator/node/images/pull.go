package images

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/orchestrator/node/images/registry"
	"github.com/keelson-io/keelson/orchestrator/node/images/unpack"
)

// Auth are credentials for a registry.
type Auth = registry.Auth

// PullRequest says what to pull.
type PullRequest struct {
	Ref      string
	Auth     *Auth
	Platform *ocispec.Platform // nil: the one of the store
	// Progress, if there is one, is told how far it is. It may be called from several goroutines, one at a time, and should
	// return at once.
	Progress func(Progress)
}

// Progress is how far a layer is.
type Progress struct {
	Layer    digest.Digest // of the compressed layer
	Received int64         // bytes
	Total    int64
	Done     bool // it is unpacked
}

// Pull gets an image from its registry. What is there already is not got again, but the registry is always asked, so that a
// tag that moved is followed and credentials that do not give access any more are found out.
func (s *Store) Pull(ctx context.Context, req PullRequest) (Image, error) {
	ref, err := ParseReference(req.Ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.pull(ctx, ref, req)
	if err != nil {
		return Image{}, fmt.Errorf("images: pull %s: %w", req.Ref, err)
	}
	return img, nil
}

func (s *Store) pull(ctx context.Context, ref Reference, req PullRequest) (Image, error) {
	o, err := s.begin()
	if err != nil {
		return Image{}, err
	}
	defer o.end()
	repo := s.client.Repository(ref.Host, ref.Path, req.Auth)
	top, err := repo.Manifest(ctx, ref.what())
	if err != nil {
		return Image{}, err
	}
	get := func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
		m, err := repo.Manifest(ctx, d.Digest.String())
		return m.Body, err
	}
	chain, m, err := choose(ctx, document{MediaType: top.MediaType, Body: top.Body}, s.platform(req.Platform), get)
	if err != nil {
		return Image{}, err
	}
	rec, err := s.pullImage(ctx, o, repo, chain, m, req.Progress)
	if err != nil {
		return Image{}, err
	}
	names := []Reference{{Host: ref.Host, Path: ref.Path, Digest: digest.Digest(top.Digest)}}
	if ref.Tag != "" {
		names = append(names, ref)
	}
	if err := s.commit(rec, names); err != nil {
		return Image{}, err
	}
	s.lg.Debug("images: pulled", zap.String("image", req.Ref), zap.Stringer("id", rec.ID), zap.Int64("bytes", rec.Size))
	return s.Resolve(rec.ID.String())
}

func (s *Store) platform(p *ocispec.Platform) ocispec.Platform {
	switch {
	case p != nil:
		return *p
	case s.cfg.Platform != nil:
		return *s.cfg.Platform
	}
	return hostPlatform()
}

// pullImage gets what a manifest names. chain are the documents that led to it, with itself.
func (s *Store) pullImage(ctx context.Context, o *op, repo *registry.Repository, chain [][]byte, m ocispec.Manifest, told func(Progress)) (record, error) {
	rec := newRecord(chain, m)
	if err := o.claim(rec.claims()...); err != nil {
		return rec, err
	}
	for _, doc := range chain {
		if _, err := s.putBlob(doc); err != nil {
			return rec, err
		}
	}
	if err := s.download(ctx, repo, m.Config, func(int64) {}); err != nil {
		return rec, err
	}
	if err := s.describe(&rec, m); err != nil {
		return rec, err
	}
	if err := o.claim(layerKeys(rec.Layers)...); err != nil {
		return rec, err
	}
	return rec, s.pullLayers(ctx, o, repo, rec.Layers, m.Layers, told)
}

// pullLayers gets layers and unpacks each when it is there.
func (s *Store) pullLayers(ctx context.Context, o *op, repo *registry.Repository, layers []layerRef, from []ocispec.Descriptor, told func(Progress)) error {
	var mu sync.Mutex
	tell := func(p Progress) {
		if told != nil {
			mu.Lock()
			defer mu.Unlock()
			told(p)
		}
	}
	get := func(ctx context.Context, i int) error {
		d := from[i]
		return s.download(ctx, repo, d, func(n int64) { tell(Progress{Layer: d.Digest, Received: n, Total: d.Size}) })
	}
	if !unpack.Supported() { // Mount does, in a process that can
		g, gctx := errgroup.WithContext(ctx)
		for i := range layers {
			g.Go(func() error { return get(gctx, i) })
		}
		return g.Wait()
	}
	if _, err := s.unpackAll(ctx, o, layers, get); err != nil {
		return err
	}
	for _, d := range from {
		tell(Progress{Layer: d.Digest, Received: d.Size, Total: d.Size, Done: true})
	}
	return nil
}

// newRecord begins a record of an image.
func newRecord(chain [][]byte, m ocispec.Manifest) record {
	rec := record{ID: m.Config.Digest}
	for _, doc := range chain {
		d := digest.FromBytes(doc)
		rec.Manifest = d // the last one is
		rec.Blobs = append(rec.Blobs, d)
		rec.Size += int64(len(doc))
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if !slices.Contains(rec.Blobs, d.Digest) {
			rec.Blobs = append(rec.Blobs, d.Digest)
			rec.Size += d.Size
		}
	}
	return rec
}

// claims are what an operation claims that makes such an image.
func (r *record) claims() []string {
	all := make([]string, 0, len(r.Blobs))
	for _, b := range r.Blobs {
		all = append(all, b.String())
	}
	return all
}

// describe notes the layers of an image, after its configuration was got.
func (s *Store) describe(rec *record, m ocispec.Manifest) error {
	b, err := s.readBlob(m.Config.Digest)
	if err != nil {
		return err
	}
	diffs, err := parseConfig(b)
	if err != nil {
		return err
	}
	if len(diffs) != len(m.Layers) {
		return fmt.Errorf("the image is %w: %d layers in the manifest, %d in the configuration", ErrInvalid, len(m.Layers), len(diffs))
	}
	rec.Layers = make([]layerRef, len(diffs))
	for i, l := range m.Layers {
		if len(l.URLs) > 0 && strings.Contains(l.MediaType, "foreign") {
			return fmt.Errorf("the image is %w: layer %s is not in the registry but at %s", ErrInvalid, l.Digest, l.URLs[0])
		}
		rec.Layers[i] = layerRef{Diff: diffs[i], Blob: l.Digest, MediaType: l.MediaType}
	}
	return nil
}
