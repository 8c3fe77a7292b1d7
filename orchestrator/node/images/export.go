package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Format is that of an exported archive.
type Format string

// Formats of archives.
const (
	OCI    Format = "oci"    // a layout of OCI
	Docker Format = "docker" // what "docker load" reads
)

// exported is one image that is exported.
type exported struct {
	r     *record
	m     ocispec.Manifest
	names []string
}

// Export writes images to a tar archive. The same images give the same archive. An image that is asked for by a name has that
// name in the archive, one that is asked for by ID all its names.
func (s *Store) Export(ctx context.Context, w io.Writer, format Format, refs ...string) error {
	if format != OCI && format != Docker {
		return fmt.Errorf("images: export: format %q is %w: want %s or %s", format, ErrInvalid, OCI, Docker)
	}
	if len(refs) == 0 {
		return fmt.Errorf("images: export: %w: no image is named", ErrInvalid)
	}
	o, err := s.begin()
	if err != nil {
		return err
	}
	defer o.end()
	var all []*exported
	byID := map[digest.Digest]*exported{}
	for _, ref := range refs {
		r, m, err := s.hold(o, ref)
		if err != nil {
			return err
		}
		e, ok := byID[r.ID]
		if !ok {
			e = &exported{r: r, m: m}
			byID[r.ID] = e
			all = append(all, e)
		}
		names := r.Tags
		if n, err := ParseReference(ref); err == nil && slices.Contains(r.Tags, n.String()) {
			names = []string{n.String()}
		}
		e.names = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(e.names), names...))))
	}
	x := &exporter{ctx: ctx, s: s, tw: tar.NewWriter(w), done: map[string]bool{}}
	if format == OCI {
		err = x.layout(all)
	} else {
		err = x.docker(all)
	}
	if err == nil {
		err = x.tw.Close()
	}
	if err != nil {
		return fmt.Errorf("images: export: %w", err)
	}
	return nil
}

// exporter writes an archive.
type exporter struct {
	ctx  context.Context
	s    *Store
	tw   *tar.Writer
	done map[string]bool // names that are in the archive
}

// layout writes an OCI layout.
func (x *exporter) layout(all []*exported) error {
	if err := x.json(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, e := range all {
		doc, err := x.s.readBlob(e.r.Manifest)
		if err != nil {
			return err
		}
		d := ocispec.Descriptor{MediaType: e.m.MediaType, Digest: e.r.Manifest, Size: int64(len(doc))}
		if d.MediaType == "" {
			d.MediaType = ocispec.MediaTypeImageManifest
		}
		for _, blob := range append([]ocispec.Descriptor{d, e.m.Config}, e.m.Layers...) {
			if err := x.blob(blobName(blob.Digest), blob); err != nil {
				return err
			}
		}
		for _, name := range e.names {
			named := d
			ref, err := ParseReference(name)
			if err != nil {
				return err
			}
			named.Annotations = map[string]string{nameAnnotation: name, ocispec.AnnotationRefName: ref.Tag}
			index.Manifests = append(index.Manifests, named)
		}
		if len(e.names) == 0 {
			index.Manifests = append(index.Manifests, d)
		}
	}
	return x.json(ocispec.ImageIndexFile, index)
}

// docker writes what "docker load" reads.
func (x *exporter) docker(all []*exported) error {
	entries := make([]dockerEntry, 0, len(all))
	for _, e := range all {
		entry := dockerEntry{Config: e.r.ID.Encoded() + ".json", RepoTags: []string{}, Layers: []string{}}
		for _, name := range e.names {
			entry.RepoTags = append(entry.RepoTags, Familiar(name))
		}
		if err := x.blob(entry.Config, e.m.Config); err != nil {
			return err
		}
		for _, l := range e.m.Layers {
			name := l.Digest.Encoded() + ".tar"
			if err := x.blob(name, l); err != nil {
				return err
			}
			entry.Layers = append(entry.Layers, name)
		}
		entries = append(entries, entry)
	}
	return x.json("manifest.json", entries)
}

func (x *exporter) header(name string, size int64) error {
	return x.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

func (x *exporter) json(name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := x.header(name, int64(len(b))); err != nil {
		return err
	}
	_, err = x.tw.Write(b)
	return err
}

// blob writes a blob, once.
func (x *exporter) blob(name string, d ocispec.Descriptor) error {
	if x.done[name] {
		return nil
	}
	x.done[name] = true
	if err := x.ctx.Err(); err != nil {
		return err
	}
	f, err := x.s.openBlob(d.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := x.header(name, d.Size); err != nil {
		return err
	}
	_, err = io.Copy(x.tw, f)
	return err
}

// Names returns the names of the images of a store, sorted: tags, and for those without one the ID.
func (s *Store) Names() ([]string, error) {
	all, err := s.load()
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, r := range all {
		for _, t := range r.Tags {
			names[t] = true
		}
		if len(r.Tags) == 0 {
			names[r.ID.String()] = true
		}
	}
	return slices.Sorted(maps.Keys(names)), nil
}
