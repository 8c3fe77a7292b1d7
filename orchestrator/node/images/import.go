package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotation with the complete name of an image, in the index of an OCI layout.
const nameAnnotation = "io.containerd.image.name"

// Import takes in the images of an OCI layout, which is a directory or a tar archive, or of an archive of "docker save". names,
// if there are any, are given to the image, of which there must be one then.
func (s *Store) Import(ctx context.Context, path string, names ...string) ([]Image, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("images: import: %w", err)
	}
	if info.IsDir() {
		return s.importFrom(ctx, names, func(*op) (archive, error) { return dirArchive(path), nil })
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("images: import: %w", err)
	}
	defer func() { _ = f.Close() }()
	return s.ImportStream(ctx, f, names...)
}

// ImportStream is Import from a tar archive that is read once, compressed or not.
func (s *Store) ImportStream(ctx context.Context, r io.Reader, names ...string) ([]Image, error) {
	return s.importFrom(ctx, names, func(o *op) (archive, error) { return o.spoolArchive(ctx, r) })
}

// archive is what is imported: files by name. fs.ErrNotExist: there is no such file.
type archive interface {
	read(name string) ([]byte, error) // a small file
	spool(o *op, name string) (spooled, error)
}

func (s *Store) importFrom(ctx context.Context, names []string, open func(*op) (archive, error)) ([]Image, error) {
	refs := make([]Reference, len(names))
	for i, n := range names {
		var err error
		if refs[i], err = ParseReference(n); err != nil {
			return nil, err
		}
	}
	o, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer o.end()
	a, err := open(o)
	if err != nil {
		return nil, fmt.Errorf("images: import: %w", err)
	}
	im := &importer{s: s, o: o, a: a}
	found, err := im.find(ctx)
	if err != nil {
		return nil, fmt.Errorf("images: import: %w", err)
	}
	if len(refs) > 0 && len(found) != 1 {
		return nil, fmt.Errorf("images: import: there are %d images, names can be given to one only", len(found))
	}
	var out []Image
	for _, f := range found {
		if len(refs) > 0 {
			f.names = refs
		}
		img, err := f.load(ctx)
		if err != nil {
			return out, fmt.Errorf("images: import: %w", err)
		}
		out = append(out, img)
	}
	return out, nil
}

// importer takes in an archive.
type importer struct {
	s *Store
	o *op
	a archive
}

// candidate is an image in an archive.
type candidate struct {
	names []Reference
	load  func(context.Context) (Image, error)
	im    *importer
	desc  ocispec.Descriptor
	doc   *dockerEntry
}

// find lists the images.
func (im *importer) find(ctx context.Context) ([]*candidate, error) {
	if b, err := im.a.read("index.json"); err == nil {
		return im.layout(ctx, b)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	b, err := im.a.read("manifest.json")
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: it is neither an OCI layout (no index.json) nor an archive of docker save (no manifest.json)", ErrInvalid)
	}
	if err != nil {
		return nil, err
	}
	return im.docker(b)
}

// layout lists the images of an OCI layout. Of several with one name, those that do not run on the store's platform are left
// out.
func (im *importer) layout(_ context.Context, b []byte) ([]*candidate, error) {
	var x ocispec.Index
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, fmt.Errorf("index.json is %w: %w", ErrInvalid, err)
	}
	if err := checkDescriptors(x.Manifests); err != nil {
		return nil, err
	}
	groups := map[string][]ocispec.Descriptor{}
	var order []string
	for _, d := range x.Manifests {
		key := d.Annotations[nameAnnotation]
		if key == "" {
			key = d.Annotations[ocispec.AnnotationRefName]
		}
		if key == "" && d.Platform == nil {
			key = d.Digest.String()
		}
		if _, ok := groups[key]; !ok {
			order = append(order, key)
		}
		groups[key] = append(groups[key], d)
	}
	var out []*candidate
	for _, key := range order {
		d := groups[key][0]
		if len(groups[key]) > 1 {
			var err error
			if d, err = pick(groups[key], im.s.platform(nil)); err != nil {
				return nil, err
			}
		}
		c := &candidate{im: im, desc: d}
		c.load = c.loadLayout
		// A reference that is a mere tag names nothing by itself.
		if strings.ContainsAny(key, "/:") && !strings.HasPrefix(key, "sha256:") {
			if ref, err := ParseReference(key); err == nil {
				c.names = append(c.names, ref)
			}
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: the layout has no images", ErrInvalid)
	}
	return out, nil
}

func blobName(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }

func (c *candidate) loadLayout(ctx context.Context) (Image, error) {
	im := c.im
	get := func(_ context.Context, d ocispec.Descriptor) ([]byte, error) { return im.a.read(blobName(d.Digest)) }
	body, err := get(ctx, c.desc)
	if err != nil {
		return Image{}, err
	}
	if digest.FromBytes(body) != c.desc.Digest {
		return Image{}, fmt.Errorf("manifest %s is %w", c.desc.Digest, ErrCorrupt)
	}
	chain, m, err := choose(ctx, document{MediaType: c.desc.MediaType, Body: body}, im.s.platform(nil), get)
	if err != nil {
		return Image{}, err
	}
	rec := newRecord(chain, m)
	if err := im.o.claim(rec.claims()...); err != nil {
		return Image{}, err
	}
	for _, doc := range chain {
		if _, err := im.s.putBlob(doc); err != nil {
			return Image{}, err
		}
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := im.blob(d); err != nil {
			return Image{}, err
		}
	}
	names := slices.Clone(c.names)
	for _, n := range c.names { // the digest of what the name stood for
		names = append(names, Reference{Host: n.Host, Path: n.Path, Digest: digest.FromBytes(chain[0])})
	}
	return im.s.admit(ctx, im.o, rec, m, names)
}

// blob takes in a blob of a layout.
func (im *importer) blob(d ocispec.Descriptor) error {
	if im.s.hasBlob(d.Digest) {
		return nil
	}
	sp, err := im.a.spool(im.o, blobName(d.Digest))
	if err != nil {
		return err
	}
	if sp.digest != d.Digest || sp.size != d.Size {
		return fmt.Errorf("blob %s is %w: %d bytes with the digest %s", d.Digest, ErrCorrupt, sp.size, sp.digest)
	}
	return im.o.keep(sp)
}

// dockerEntry is an image in the manifest.json of docker save.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (im *importer) docker(b []byte) ([]*candidate, error) {
	var entries []dockerEntry
	if err := json.Unmarshal(b, &entries); err != nil {
		return nil, fmt.Errorf("manifest.json is %w: %w", ErrInvalid, err)
	}
	var out []*candidate
	for _, e := range entries {
		c := &candidate{im: im, doc: &e}
		c.load = c.loadDocker
		for _, t := range e.RepoTags {
			ref, err := ParseReference(t)
			if err != nil {
				return nil, err
			}
			c.names = append(c.names, ref)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: the archive has no images", ErrInvalid)
	}
	return out, nil
}

func (c *candidate) loadDocker(ctx context.Context) (Image, error) {
	im := c.im
	conf, err := im.a.read(c.doc.Config)
	if err != nil {
		return Image{}, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(conf), Size: int64(len(conf))}
	for _, name := range c.doc.Layers {
		sp, err := im.a.spool(im.o, name)
		if err != nil {
			return Image{}, err
		}
		kind, err := layerType(sp.path)
		if err != nil {
			return Image{}, err
		}
		if err := im.o.keep(sp); err != nil {
			return Image{}, err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: kind, Digest: sp.digest, Size: sp.size})
	}
	doc, err := json.Marshal(m)
	if err != nil {
		return Image{}, err
	}
	rec := newRecord([][]byte{doc}, m)
	if err := im.o.claim(rec.claims()...); err != nil {
		return Image{}, err
	}
	for _, b := range [][]byte{conf, doc} {
		if _, err := im.s.putBlob(b); err != nil {
			return Image{}, err
		}
	}
	return im.s.admit(ctx, im.o, rec, m, c.names)
}

// layerType is the media type of a layer, by how it begins.
func layerType(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 4)
	n, _ := io.ReadFull(f, head)
	switch {
	case n >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return ocispec.MediaTypeImageLayerGzip, nil
	case n == 4 && string(head) == "\x28\xb5\x2f\xfd":
		return ocispec.MediaTypeImageLayerZstd, nil
	}
	return ocispec.MediaTypeImageLayer, nil
}

// dirArchive is a directory with an OCI layout.
type dirArchive string

func (d dirArchive) open(name string) (*os.File, error) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	return root.Open(filepath.FromSlash(clean(name)))
}

func (d dirArchive) read(name string) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readSmall(f, name)
}

func (d dirArchive) spool(o *op, name string) (spooled, error) {
	f, err := d.open(name)
	if err != nil {
		return spooled{}, err
	}
	defer func() { _ = f.Close() }()
	return o.spool(f)
}

func readSmall(r io.Reader, name string) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(b) > maxDocument {
		err = fmt.Errorf("%s is %w: more than %d bytes", name, ErrInvalid, maxDocument)
	}
	return b, err
}

// tarArchive is an archive whose files lie in the directory of an operation.
type tarArchive struct {
	files map[string]spooled
	links map[string]string // a layer that is there twice
}

// spoolArchive reads an archive to its end.
func (o *op) spoolArchive(ctx context.Context, r io.Reader) (archive, error) {
	plain, err := decompress(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = plain.Close() }()
	a := &tarArchive{files: map[string]spooled{}, links: map[string]string{}}
	tr := tar.NewReader(plain)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("the archive is %w: %w", ErrInvalid, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if a.files[name], err = o.spool(tr); err != nil {
				return nil, err
			}
		case tar.TypeSymlink:
			a.links[name] = clean(path.Join(path.Dir(name), h.Linkname))
		case tar.TypeLink:
			a.links[name] = clean(h.Linkname)
		}
	}
}

// clean makes a name relative to the top of an archive.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func (a *tarArchive) find(name string) (spooled, error) {
	name = clean(name)
	for range 8 {
		if sp, ok := a.files[name]; ok {
			return sp, nil
		}
		to, ok := a.links[name]
		if !ok {
			break
		}
		name = to
	}
	return spooled{}, &os.PathError{Op: "find in the archive", Path: name, Err: os.ErrNotExist}
}

func (a *tarArchive) read(name string) ([]byte, error) {
	sp, err := a.find(name)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(sp.path)
	if errors.Is(err, os.ErrNotExist) { // kept as a blob meanwhile
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readSmall(f, name)
}

// spool hands out the file that is there. It is a copy of what may be asked for again.
func (a *tarArchive) spool(o *op, name string) (spooled, error) {
	sp, err := a.find(name)
	if err != nil {
		return sp, err
	}
	if _, err := os.Stat(sp.path); err != nil {
		sp.path = o.s.blobPath(sp.digest) // moved there by an earlier image of the archive
	}
	return sp, nil
}
