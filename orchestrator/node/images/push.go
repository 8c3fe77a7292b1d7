package images

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushRequest says what to push.
type PushRequest struct {
	Ref  string // an image of the store
	To   string // the name in the registry; empty: Ref
	Auth *Auth
	// Progress, if there is one, is told how many bytes of how many are sent. Layers that the registry has are not sent. It is
	// called by one goroutine at a time.
	Progress func(done, total int64)
}

// Push sends an image to its registry. The image is known by its digest there from then on.
func (s *Store) Push(ctx context.Context, req PushRequest) (Image, error) {
	if req.To == "" {
		req.To = req.Ref
	}
	to, err := ParseReference(req.To)
	if err != nil {
		return Image{}, err
	}
	if to.Tag == "" {
		return Image{}, fmt.Errorf("images: push %s: %w: it takes a tag", req.To, ErrInvalid)
	}
	o, err := s.begin()
	if err != nil {
		return Image{}, err
	}
	defer o.end()
	r, m, err := s.hold(o, req.Ref)
	if err != nil {
		return Image{}, err
	}
	sent := &sending{told: req.Progress}
	for _, l := range m.Layers {
		sent.total += l.Size
	}
	img, err := partial.CompressedToImage(&stored{s: s, r: r, m: m, sent: sent})
	if err != nil {
		return Image{}, fmt.Errorf("images: push %s: %w", req.To, err)
	}
	if err := s.client.Push(ctx, to.Host, to.Path, to.Tag, req.Auth, img); err != nil {
		return Image{}, fmt.Errorf("images: push %s: %w", req.To, err)
	}
	pushed := Reference{Host: to.Host, Path: to.Path, Digest: r.Manifest}
	if err := s.commit(*r, []Reference{pushed}); err != nil {
		return Image{}, err
	}
	return s.Resolve(r.ID.String())
}

// hold finds an image and keeps its blobs from being removed until the operation ends.
func (s *Store) hold(o *op, ref string) (*record, ocispec.Manifest, error) {
	all, err := s.load()
	if err != nil {
		return nil, ocispec.Manifest{}, err
	}
	r, err := lookup(all, ref)
	if err != nil {
		return nil, ocispec.Manifest{}, err
	}
	if err := o.claim(r.claims()...); err != nil {
		return nil, ocispec.Manifest{}, err
	}
	b, err := s.readBlob(r.Manifest)
	if err != nil {
		return nil, ocispec.Manifest{}, err
	}
	_, m, err := parseDocument(document{Body: b})
	return r, m, err
}

// stored is an image of the store as go-containerregistry has it.
type stored struct {
	s *Store
	r *record
	m ocispec.Manifest

	sent *sending
}

func (i *stored) RawConfigFile() ([]byte, error) { return i.s.readBlob(i.r.ID) }

func (i *stored) RawManifest() ([]byte, error) { return i.s.readBlob(i.r.Manifest) }

func (i *stored) MediaType() (types.MediaType, error) {
	if i.m.MediaType == "" {
		return types.OCIManifestSchema1, nil
	}
	return types.MediaType(i.m.MediaType), nil
}

func (i *stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, d := range i.m.Layers {
		if d.Digest.String() == h.String() {
			return &storedLayer{i.s, d, i.sent}, nil
		}
	}
	return nil, fmt.Errorf("images: layer %s: %w", h, ErrNotFound)
}

// storedLayer is a layer of a stored image.
type storedLayer struct {
	s    *Store
	d    ocispec.Descriptor
	sent *sending
}

func (l *storedLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.d.Digest.String()) }

func (l *storedLayer) Size() (int64, error) { return l.d.Size, nil }

func (l *storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.d.MediaType), nil
}

func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	f, err := l.s.openBlob(l.d.Digest)
	if err != nil {
		return nil, err
	}
	return &sentFile{f, l.sent}, nil
}

func (s *Store) openBlob(d digest.Digest) (*os.File, error) {
	f, err := os.Open(s.blobPath(d))
	if err != nil {
		return nil, fmt.Errorf("images: blob %s: %w", d, err)
	}
	return f, nil
}

// sending counts what a push sends.
type sending struct {
	mu          sync.Mutex
	done, total int64
	told        func(done, total int64)
}

func (c *sending) add(n int) {
	if c.told == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += int64(n)
	c.told(min(c.done, c.total), c.total) // what is sent again counts twice
}

// sentFile is a file that is being sent.
type sentFile struct {
	*os.File
	c *sending
}

func (f *sentFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	f.c.add(n)
	return n, err
}

// WriteTo keeps io.Copy from going past Read.
func (f *sentFile) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{f})
}
