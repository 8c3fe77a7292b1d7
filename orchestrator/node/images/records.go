package images

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// record is what the index says of an image.
type record struct {
	ID       digest.Digest   `json:"id"` // of the configuration
	Manifest digest.Digest   `json:"manifest"`
	Blobs    []digest.Digest `json:"blobs"` // manifest, configuration, layers, and the index that it was found in
	Layers   []layerRef      `json:"layers"`
	Tags     []string        `json:"tags,omitempty"`    // complete names, sorted
	Digests  []string        `json:"digests,omitempty"` // repo@digest, sorted
	Size     int64           `json:"size"`
	Pinned   bool            `json:"pinned,omitempty"`
	Added    time.Time       `json:"added"`
}

// layerRef is one layer of an image, the lowest first.
type layerRef struct {
	Diff      digest.Digest `json:"diff"`
	Blob      digest.Digest `json:"blob"`
	MediaType string        `json:"mediaType"`
}

// Image is one image of a store.
type Image struct {
	ID          string // sha256:... of the configuration
	Manifest    string // sha256:... of the manifest
	RepoTags    []string
	RepoDigests []string
	Size        int64 // of all blobs, in bytes
	Config      ocispec.Image
	Pinned      bool
	Added       time.Time // to this store
	LastUsed    time.Time // by Mount, or Added
}

// load returns the records, from memory if the file has not changed.
func (s *Store) load() ([]record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := filepath.Join(s.dir, indexFile)
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	if s.seen != nil && os.SameFile(s.seen, info) && s.seen.ModTime().Equal(info.ModTime()) && s.seen.Size() == info.Size() {
		return s.known, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	all, err := parseIndex(b)
	if err != nil {
		return nil, fmt.Errorf("images: %s: %w", path, err)
	}
	// The file may have been replaced between the two calls; then the next one sees another time and reads again.
	s.seen, s.known = info, all
	return all, nil
}

type index struct {
	Images []record `json:"images"`
}

func parseIndex(b []byte) ([]record, error) {
	var x index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, err
	}
	for _, r := range x.Images {
		digests := append([]digest.Digest{r.ID, r.Manifest}, r.Blobs...)
		for _, l := range r.Layers {
			digests = append(digests, l.Diff, l.Blob)
		}
		for _, d := range digests {
			if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
				return nil, fmt.Errorf("image %q: digest %q is %w", r.ID, d, ErrInvalid)
			}
		}
	}
	return x.Images, nil
}

// change loads the records, lets f work on a copy, and saves them if it returns no error. The caller holds the store's lock.
func (s *Store) change(f func(*index) error) error {
	old, err := s.load()
	if err != nil {
		return err
	}
	x := &index{Images: make([]record, len(old))}
	for i, r := range old {
		r.Tags, r.Digests = slices.Clone(r.Tags), slices.Clone(r.Digests)
		x.Images[i] = r
	}
	if err := f(x); err != nil {
		return err
	}
	slices.SortFunc(x.Images, func(a, b record) int { return cmp.Compare(a.ID, b.ID) })
	b, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		return fmt.Errorf("images: %w", err)
	}
	return writeFile(filepath.Join(s.dir, indexFile), b)
}

func (x *index) find(id digest.Digest) *record {
	for i := range x.Images {
		if x.Images[i].ID == id {
			return &x.Images[i]
		}
	}
	return nil
}

// tag gives a name to an image and takes it from the one that had it. An image keeps its digests when it loses a name.
func (x *index) tag(id digest.Digest, name string) {
	for i := range x.Images {
		r := &x.Images[i]
		at, has := slices.BinarySearch(r.Tags, name)
		switch {
		case has && r.ID != id:
			r.Tags = slices.Delete(r.Tags, at, at+1)
		case !has && r.ID == id:
			r.Tags = slices.Insert(r.Tags, at, name)
		}
	}
}

// commit enters an image. One of the same ID keeps its names and its pin.
func (s *Store) commit(r record, names []Reference) error {
	return s.locked(func() error {
		return s.change(func(x *index) error {
			if old := x.find(r.ID); old != nil {
				old.Manifest, old.Blobs, old.Layers, old.Size = r.Manifest, r.Blobs, r.Layers, r.Size
			} else {
				r.Added = s.clk.Now().UTC()
				x.Images = append(x.Images, r)
			}
			for _, n := range names {
				if n.Digest == "" {
					x.tag(r.ID, n.String())
					continue
				}
				e := x.find(r.ID)
				if at, has := slices.BinarySearch(e.Digests, n.String()); !has {
					e.Digests = slices.Insert(e.Digests, at, n.String())
				}
			}
			return nil
		})
	})
}

// image makes an Image of a record.
func (s *Store) image(r *record) (Image, error) {
	b, err := s.readBlob(r.ID)
	if err != nil {
		return Image{}, err
	}
	img := Image{
		ID: r.ID.String(), Manifest: r.Manifest.String(), RepoTags: slices.Clone(r.Tags), RepoDigests: slices.Clone(r.Digests),
		Size: r.Size, Pinned: r.Pinned, Added: r.Added, LastUsed: r.Added,
	}
	if err := json.Unmarshal(b, &img.Config); err != nil {
		return Image{}, fmt.Errorf("images: the configuration of %s: %w", r.ID, err)
	}
	if info, err := os.Stat(filepath.Join(s.dir, usedDir, r.ID.Encoded())); err == nil && info.ModTime().After(img.LastUsed) {
		img.LastUsed = info.ModTime()
	}
	return img, nil
}

// touch notes that an image is used.
func (s *Store) touch(id digest.Digest) {
	path := filepath.Join(s.dir, usedDir, id.Encoded())
	now := s.clk.Now()
	if os.Chtimes(path, now, now) == nil {
		return
	}
	if err := os.WriteFile(path, nil, 0o600); err == nil {
		_ = os.Chtimes(path, now, now)
	}
}

// List returns all images, sorted by ID.
func (s *Store) List() ([]Image, error) {
	all, err := s.load()
	if err != nil {
		return nil, err
	}
	out := make([]Image, 0, len(all))
	for i := range all {
		img, err := s.image(&all[i])
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// Resolve finds an image by name, with tag or digest, by ID, or by the beginning of an ID. ErrNotFound: there is none.
func (s *Store) Resolve(ref string) (Image, error) {
	all, err := s.load()
	if err != nil {
		return Image{}, err
	}
	r, err := lookup(all, ref)
	if err != nil {
		return Image{}, err
	}
	return s.image(r)
}

// lookup finds a record by what Resolve takes.
func lookup(all []record, ref string) (*record, error) {
	if ref == "" {
		return nil, fmt.Errorf("images: an empty name is %w", ErrInvalid)
	}
	prefix, maybeID := idPrefix(ref)
	name, err := ParseReference(ref)
	if err == nil && !strings.HasPrefix(ref, "sha256:") {
		for i := range all {
			if all[i].named(name) {
				return &all[i], nil
			}
		}
	}
	if !maybeID {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("images: image %q: %w", ref, ErrNotFound)
	}
	var found *record
	for i := range all {
		if !strings.HasPrefix(all[i].ID.Encoded(), prefix) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("images: %q is %w: it is the beginning of the IDs of several images", ref, ErrInvalid)
		}
		found = &all[i]
	}
	if found == nil {
		return nil, fmt.Errorf("images: image %q: %w", ref, ErrNotFound)
	}
	return found, nil
}

// named tells whether a record has a name. A digest is that of the manifest, or of the index that the image was taken from.
func (r *record) named(n Reference) bool {
	if n.Digest == "" {
		return slices.Contains(r.Tags, n.String())
	}
	if slices.Contains(r.Digests, n.String()) {
		return true
	}
	ofRepo := func(s string) bool { return repoOf(s) == n.Repo() }
	return r.Manifest == n.Digest && (slices.ContainsFunc(r.Tags, ofRepo) || slices.ContainsFunc(r.Digests, ofRepo))
}

// Tag gives an image one more name, which is taken from the image that had it.
func (s *Store) Tag(ref, name string) error {
	n, err := ParseReference(name)
	if err != nil {
		return err
	}
	if n.Digest != "" {
		return fmt.Errorf("images: %q is %w: a tag has no digest", name, ErrInvalid)
	}
	return s.edit(ref, func(x *index, r *record) { x.tag(r.ID, n.String()) })
}

// Pin says whether an image is spared by all collections.
func (s *Store) Pin(ref string, pinned bool) error {
	return s.edit(ref, func(_ *index, r *record) { r.Pinned = pinned })
}

func (s *Store) edit(ref string, f func(*index, *record)) error {
	return s.locked(func() error {
		return s.change(func(x *index) error {
			r, err := lookup(x.Images, ref)
			if err != nil {
				return err
			}
			f(x, r)
			return nil
		})
	})
}
