package images

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/keelson-io/keelson/orchestrator/node/images/unpack"
)

// BuildRequest says what an image is made of. The same request gives the same image, wherever and whenever it is built.
type BuildRequest struct {
	Names []string // to tag it with
	// Base is an image of the store that the new one is put on.
	Base string
	// Binary is a file that is put into the root directory. It is the entrypoint if there is no other.
	Binary string
	// Dir is a directory whose content becomes the root directory.
	Dir string
	// Files are put where their keys say.
	Files map[string]string
	// Config of containers. What it does not say is taken from the base.
	Config ocispec.ImageConfig
	// Platform; nil: that of the base, of the binary, or of this machine.
	Platform *ocispec.Platform
	// Created is the time of the image and of all files; 1970 if it is zero.
	Created time.Time
	// Owners keeps the owners of files in Dir; otherwise all belong to root.
	Owners bool
}

// Build makes an image and tags it.
func (s *Store) Build(ctx context.Context, req BuildRequest) (Image, error) {
	names := make([]Reference, len(req.Names))
	for i, n := range req.Names {
		var err error
		if names[i], err = ParseReference(n); err != nil {
			return Image{}, err
		}
		if names[i].Digest != "" {
			return Image{}, fmt.Errorf("images: %q is %w: a tag has no digest", n, ErrInvalid)
		}
	}
	img, err := s.build(ctx, req, names)
	if err != nil {
		return Image{}, fmt.Errorf("images: build: %w", err)
	}
	return img, nil
}

func (s *Store) build(ctx context.Context, req BuildRequest, names []Reference) (Image, error) {
	if req.Created.IsZero() {
		req.Created = time.Unix(0, 0)
	}
	req.Created = req.Created.UTC().Truncate(time.Second)
	platform, err := buildPlatform(&req)
	if err != nil {
		return Image{}, err
	}
	o, err := s.begin()
	if err != nil {
		return Image{}, err
	}
	defer o.end()
	conf, m, err := s.base(o, req.Base)
	if err != nil {
		return Image{}, err
	}
	layer, diff, err := o.pack(ctx, req)
	if err != nil {
		return Image{}, err
	}
	if err := o.keep(layer); err != nil {
		return Image{}, err
	}
	m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: layer.digest, Size: layer.size})
	conf.RootFS.DiffIDs = append(conf.RootFS.DiffIDs, diff)
	conf.History = append(conf.History, ocispec.History{Created: &req.Created, CreatedBy: "keelson image build"})
	conf.Created = &req.Created
	if platform != nil {
		conf.Platform = *platform
	}
	conf.Config = mergeConfig(conf.Config, req.Config)
	if req.Binary != "" && len(conf.Config.Entrypoint) == 0 {
		conf.Config.Entrypoint = []string{"/" + filepath.Base(req.Binary)}
	}
	return s.assemble(ctx, o, conf, m, names)
}

// base returns configuration and manifest that an image begins with.
func (s *Store) base(o *op, ref string) (conf ocispec.Image, m ocispec.Manifest, err error) {
	m = ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	if ref == "" {
		conf.Platform, conf.RootFS = hostPlatform(), ocispec.RootFS{Type: "layers"}
		return conf, m, nil
	}
	all, err := s.load()
	if err != nil {
		return conf, m, err
	}
	r, err := lookup(all, ref)
	if err != nil {
		return conf, m, err
	}
	if err := o.claim(r.claims()...); err != nil {
		return conf, m, err
	}
	b, err := s.readBlob(r.Manifest)
	if err != nil {
		return conf, m, err
	}
	var bm ocispec.Manifest
	if err := json.Unmarshal(b, &bm); err != nil {
		return conf, m, fmt.Errorf("the manifest of %s: %w", ref, err)
	}
	for _, l := range bm.Layers {
		l.MediaType = ociType(l.MediaType)
		m.Layers = append(m.Layers, l)
	}
	img, err := s.image(r)
	return img.Config, m, err
}

// ociType is the OCI name of a layer's type.
func ociType(t string) string {
	switch t {
	case "application/vnd.docker.image.rootfs.diff.tar.gzip":
		return ocispec.MediaTypeImageLayerGzip
	case "application/vnd.docker.image.rootfs.diff.tar":
		return ocispec.MediaTypeImageLayer
	case "application/vnd.docker.image.rootfs.diff.tar.zstd":
		return ocispec.MediaTypeImageLayerZstd
	}
	return t
}

// assemble stores an image whose layers are in the store, and tags it.
func (s *Store) assemble(ctx context.Context, o *op, conf ocispec.Image, m ocispec.Manifest, names []Reference) (Image, error) {
	b, err := json.Marshal(conf)
	if err != nil {
		return Image{}, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(b), Size: int64(len(b))}
	doc, err := json.Marshal(m)
	if err != nil {
		return Image{}, err
	}
	rec := newRecord([][]byte{doc}, m)
	if err := o.claim(rec.claims()...); err != nil {
		return Image{}, err
	}
	for _, blob := range [][]byte{b, doc} {
		if _, err := s.putBlob(blob); err != nil {
			return Image{}, err
		}
	}
	return s.admit(ctx, o, rec, m, names)
}

// admit enters an image whose blobs are all there, after its layers were unpacked, which checks them.
func (s *Store) admit(ctx context.Context, o *op, rec record, m ocispec.Manifest, names []Reference) (Image, error) {
	if err := s.describe(&rec, m); err != nil {
		return Image{}, err
	}
	if unpack.Supported() {
		if err := o.claim(layerKeys(rec.Layers)...); err != nil {
			return Image{}, err
		}
		if _, err := s.unpackAll(ctx, o, rec.Layers, func(context.Context, int) error { return nil }); err != nil {
			return Image{}, err
		}
	}
	digests := make([]Reference, 0, len(names))
	for _, n := range names {
		if n.Tag != "" {
			digests = append(digests, Reference{Host: n.Host, Path: n.Path, Digest: rec.Manifest})
		}
	}
	if err := s.commit(rec, slices.Concat(names, digests)); err != nil {
		return Image{}, err
	}
	return s.Resolve(rec.ID.String())
}

// mergeConfig puts a configuration over that of a base. As in a Dockerfile, a new entrypoint resets the command.
func mergeConfig(base, over ocispec.ImageConfig) ocispec.ImageConfig {
	out := base
	if len(over.Entrypoint) > 0 {
		out.Entrypoint, out.Cmd = over.Entrypoint, nil
	}
	if len(over.Cmd) > 0 {
		out.Cmd = over.Cmd
	}
	for to, from := range map[*string]string{&out.User: over.User, &out.WorkingDir: over.WorkingDir, &out.StopSignal: over.StopSignal} {
		if from != "" {
			*to = from
		}
	}
	out.Env = slices.Clone(base.Env)
	for _, e := range over.Env {
		out.Env = setEnv(out.Env, e)
	}
	if len(out.Env) == 0 {
		out.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	out.Labels = mergeMaps(base.Labels, over.Labels)
	out.ExposedPorts = mergeMaps(base.ExposedPorts, over.ExposedPorts)
	out.Volumes = mergeMaps(base.Volumes, over.Volumes)
	return out
}

func mergeMaps[V any](a, b map[string]V) map[string]V {
	if len(a)+len(b) == 0 {
		return nil
	}
	out := map[string]V{}
	for _, m := range []map[string]V{a, b} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

func setEnv(env []string, e string) []string {
	name := envName(e)
	for i := range env {
		if envName(env[i]) == name {
			env[i] = e
			return env
		}
	}
	return append(env, e)
}

func envName(e string) string {
	for i := range len(e) {
		if e[i] == '=' {
			return e[:i]
		}
	}
	return e
}

// buildPlatform finds out what a build is for, and whether its binary can run where there is nothing else.
func buildPlatform(req *BuildRequest) (*ocispec.Platform, error) {
	if req.Binary == "" {
		if req.Dir == "" && len(req.Files) == 0 {
			return nil, fmt.Errorf("%w: there is nothing to put in: want a binary, a directory or files", ErrInvalid)
		}
		return req.Platform, nil
	}
	if info, err := os.Stat(req.Binary); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is %w: no regular file", req.Binary, ErrInvalid)
	}
	f, err := elf.Open(req.Binary)
	if err != nil {
		return req.Platform, nil //nolint:nilerr // a script, or for another system
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && req.Base == "" && req.Dir == "" {
			return nil, fmt.Errorf("%s is %w: it needs shared libraries, which the image would not have: link it statically, or use a base or a directory",
				req.Binary, ErrInvalid)
		}
	}
	if req.Platform != nil {
		return req.Platform, nil
	}
	return machine(f.Machine), nil
}

func machine(m elf.Machine) *ocispec.Platform {
	names := map[elf.Machine]ocispec.Platform{
		elf.EM_X86_64: {Architecture: "amd64"}, elf.EM_AARCH64: {Architecture: "arm64"}, elf.EM_ARM: {Architecture: "arm", Variant: "v7"},
		elf.EM_386: {Architecture: "386"}, elf.EM_RISCV: {Architecture: "riscv64"}, elf.EM_S390: {Architecture: "s390x"},
		elf.EM_PPC64: {Architecture: "ppc64le"}, elf.EM_LOONGARCH: {Architecture: "loong64"},
	}
	p, ok := names[m]
	if !ok {
		return nil
	}
	p.OS = "linux"
	return &p
}

// targetOf is a file's place in the image, relative to its root.
func targetOf(name string) (string, error) {
	t := path.Clean("/" + name)
	if t == "/" {
		return "", errors.New("a file cannot be put in the place of the root directory")
	}
	return t[1:], nil
}
