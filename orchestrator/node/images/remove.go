package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Removed is what Remove did.
type Removed struct {
	Untagged []string // names and digests that are gone
	Deleted  string   // ID of the image, if it is gone
}

// Remove takes a name from an image, and with the last one removes the image. By ID, or the beginning of one, the image goes
// with all its names. Layers of mounts stay until they are unmounted.
func (s *Store) Remove(ref string) (Removed, error) {
	var out Removed
	err := s.locked(func() error {
		return s.change(func(x *index) error {
			r, err := lookup(x.Images, ref)
			if err != nil {
				return err
			}
			out = x.remove(r, ref)
			return nil
		})
	})
	if err != nil || out.Deleted == "" {
		return out, err
	}
	return out, s.sweep()
}

// remove does it to the index.
func (x *index) remove(r *record, ref string) (out Removed) {
	n, err := ParseReference(ref)
	if err == nil && !strings.HasPrefix(ref, "sha256:") && r.named(n) {
		gone := func(s string) bool { return s == n.String() }
		if n.Digest != "" { // with the digest go the tags of the repository
			gone = func(s string) bool { return repoOf(s) == n.Repo() }
		}
		r.Tags = deleteInto(r.Tags, gone, &out.Untagged)
		if !slices.ContainsFunc(r.Tags, func(s string) bool { return repoOf(s) == n.Repo() }) {
			r.Digests = deleteInto(r.Digests, func(s string) bool { return repoOf(s) == n.Repo() }, &out.Untagged)
		}
		if len(r.Tags)+len(r.Digests) > 0 {
			return out
		}
	} else {
		out.Untagged = append(slices.Clone(r.Tags), r.Digests...)
	}
	out.Deleted = r.ID.String()
	x.Images = slices.DeleteFunc(x.Images, func(e record) bool { return e.ID.String() == out.Deleted })
	return out
}

func deleteInto(from []string, gone func(string) bool, to *[]string) []string {
	return slices.DeleteFunc(from, func(s string) bool {
		if gone(s) {
			*to = append(*to, s)
			return true
		}
		return false
	})
}

// PruneRequest says which images nobody uses any more.
type PruneRequest struct {
	// All: every image that is not mounted; otherwise those without a name.
	All bool
	// Unused is for how long it must not have been used.
	Unused time.Duration
}

// Prune removes images that are neither mounted nor pinned, and whatever no image needs. It returns what went.
func (s *Store) Prune(req PruneRequest) ([]Removed, error) {
	var out []Removed
	err := s.locked(func() error {
		mounts, err := s.mounts()
		if err != nil {
			return err
		}
		used := map[string]bool{}
		for _, m := range mounts {
			used[m.Image.String()] = true
		}
		return s.change(func(x *index) error {
			for _, r := range slices.Clone(x.Images) {
				img, err := s.image(&r)
				keep := r.Pinned || used[r.ID.String()] || !req.All && len(r.Tags) > 0
				if keep || err == nil && s.clk.Now().Sub(img.LastUsed) < req.Unused {
					continue
				}
				out = append(out, x.remove(&r, r.ID.String()))
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return out, s.sweep()
}

// sweep removes blobs and layers that no image, no mount and no running operation needs.
func (s *Store) sweep() error {
	var rubbish []string
	err := s.locked(func() error {
		live, err := s.live()
		if err != nil {
			return err
		}
		for _, kind := range []string{blobsDir, layersDir, usedDir} {
			entries, err := os.ReadDir(filepath.Join(s.dir, kind))
			if err != nil {
				return fmt.Errorf("images: %w", err)
			}
			for _, e := range entries {
				if live[e.Name()] || strings.HasPrefix(e.Name(), ".new-") {
					continue
				}
				to, err := s.setAside(filepath.Join(s.dir, kind, e.Name()))
				if err != nil {
					return err
				}
				rubbish = append(rubbish, to)
			}
		}
		return nil
	})
	s.discard(rubbish)
	return err
}

// live returns the names of the blobs, layers and notes of use that are needed. The caller holds the store's lock.
func (s *Store) live() (map[string]bool, error) {
	live := map[string]bool{emptyLayer: true}
	all, err := s.load()
	if err != nil {
		return nil, err
	}
	add := func(d digest.Digest) { live[d.Encoded()] = true }
	for _, r := range all {
		add(r.ID)
		for _, b := range r.Blobs {
			add(b)
		}
		for _, key := range layerKeys(r.Layers) {
			live[key] = true
		}
	}
	mounts, err := s.mounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		for _, key := range layerKeys(m.Layers) {
			live[key] = true
		}
		for _, l := range m.Layers { // should one have to be unpacked again
			add(l.Blob)
		}
	}
	claims, err := s.claims()
	if err != nil {
		return nil, err
	}
	for c := range claims {
		if d, err := digest.Parse(c); err == nil {
			add(d)
		}
		live[c] = true
	}
	return live, nil
}

// Usage is what a store takes of its file system.
type Usage struct {
	Dir    string
	Bytes  int64
	Inodes int64
}

// FsUsage returns what images take: blobs and unpacked layers, and what writable layers take is in the second value.
func (s *Store) FsUsage() (images, containers Usage, err error) {
	images = Usage{Dir: s.dir}
	containers = Usage{Dir: filepath.Join(s.dir, mountsDir)}
	entries, err := os.ReadDir(filepath.Join(s.dir, blobsDir))
	if err != nil {
		return images, containers, fmt.Errorf("images: %w", err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			images.Bytes += info.Size()
			images.Inodes++
		}
	}
	entries, err = os.ReadDir(filepath.Join(s.dir, layersDir))
	if err != nil {
		return images, containers, fmt.Errorf("images: %w", err)
	}
	for _, e := range entries {
		if m, err := s.layerMeta(e.Name()); err == nil {
			images.Bytes += m.Bytes
			images.Inodes += m.Inodes
		}
	}
	for _, key := range s.Mounted() {
		bytes, inodes, err := s.Usage(key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return images, containers, err
		}
		containers.Bytes += bytes
		containers.Inodes += inodes
	}
	return images, containers, nil
}
