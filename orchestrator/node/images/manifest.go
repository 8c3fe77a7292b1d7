package images

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's, which mean what those of OCI mean.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

const (
	maxDocument  = 8 << 20 // bytes of a manifest or a configuration
	maxIndexes   = 4       // that may lie in one another
	maxLayers    = 500     // that overlayfs mounts
	maxLayerSize = 1 << 40
)

// document is a manifest or an index.
type document struct {
	MediaType string // as told by who sent it; the document's own counts more
	Body      []byte
}

// choose follows indexes to the manifest for a platform. It returns the documents on the way, with the manifest last.
func choose(ctx context.Context, doc document, p ocispec.Platform, get func(context.Context, ocispec.Descriptor) ([]byte, error)) (chain [][]byte, m ocispec.Manifest, err error) {
	for range maxIndexes {
		chain = append(chain, doc.Body)
		x, m, err := parseDocument(doc)
		if err != nil {
			return nil, ocispec.Manifest{}, err
		}
		if x == nil {
			return chain, m, nil
		}
		d, err := pick(x.Manifests, p)
		if err != nil {
			return nil, ocispec.Manifest{}, err
		}
		body, err := get(ctx, d)
		if err != nil {
			return nil, ocispec.Manifest{}, err
		}
		if digest.FromBytes(body) != d.Digest {
			return nil, ocispec.Manifest{}, fmt.Errorf("manifest %s is %w", d.Digest, ErrCorrupt)
		}
		doc = document{MediaType: d.MediaType, Body: body}
	}
	return nil, ocispec.Manifest{}, fmt.Errorf("the image is %w: more than %d indexes in one another", ErrInvalid, maxIndexes)
}

// parseDocument reads a manifest, or an index, which is nil for the other kind.
func parseDocument(doc document) (*ocispec.Index, ocispec.Manifest, error) {
	var m ocispec.Manifest
	var either struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		Layers        []ocispec.Descriptor `json:"layers"`
		FSLayers      []any                `json:"fsLayers"`
	}
	if len(doc.Body) > maxDocument {
		return nil, m, fmt.Errorf("the manifest is %w: it has %d bytes", ErrInvalid, len(doc.Body))
	}
	if err := json.Unmarshal(doc.Body, &either); err != nil {
		return nil, m, fmt.Errorf("the manifest is %w: %w", ErrInvalid, err)
	}
	kind := either.MediaType
	if kind == "" {
		kind, _, _ = strings.Cut(doc.MediaType, ";")
	}
	switch {
	case either.SchemaVersion == 1 || len(either.FSLayers) > 0:
		return nil, m, fmt.Errorf("the manifest is %w: version 1 of Docker's format is no longer supported", ErrInvalid)
	case kind == ocispec.MediaTypeImageIndex || kind == dockerIndex || len(either.Manifests) > 0 && len(either.Layers) == 0:
		x := &ocispec.Index{Manifests: either.Manifests}
		return x, m, checkDescriptors(x.Manifests)
	}
	if err := json.Unmarshal(doc.Body, &m); err != nil {
		return nil, m, fmt.Errorf("the manifest is %w: %w", ErrInvalid, err)
	}
	if t := m.Config.MediaType; t != "" && t != ocispec.MediaTypeImageConfig && t != dockerConfig {
		return nil, m, fmt.Errorf("%w: it is no image of a container but of type %q", ErrInvalid, t)
	}
	if len(m.Layers) > maxLayers {
		return nil, m, fmt.Errorf("the image is %w: %d layers are more than can be mounted (%d)", ErrInvalid, len(m.Layers), maxLayers)
	}
	return nil, m, checkDescriptors(append([]ocispec.Descriptor{m.Config}, m.Layers...))
}

func checkDescriptors(all []ocispec.Descriptor) error {
	for _, d := range all {
		if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("the manifest is %w: digest %q", ErrInvalid, d.Digest)
		}
		if d.Size < 0 || d.Size > maxLayerSize {
			return fmt.Errorf("the manifest is %w: %s of %d bytes", ErrInvalid, d.Digest, d.Size)
		}
	}
	return nil
}

// parseConfig reads the digests of the layers' contents.
func parseConfig(b []byte) ([]digest.Digest, error) {
	var c ocispec.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("the configuration is %w: %w", ErrInvalid, err)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return nil, fmt.Errorf("the configuration is %w: layer %q", ErrInvalid, d)
		}
	}
	return c.RootFS.DiffIDs, nil
}

// hostPlatform is the platform of this machine's containers.
func hostPlatform() ocispec.Platform {
	p := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = "v7"
	}
	return p
}

// ParsePlatform reads "linux/arm64" or "linux/arm/v7".
func ParsePlatform(s string) (*ocispec.Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return nil, fmt.Errorf("images: platform %q is %w: want os/architecture or os/architecture/variant", s, ErrInvalid)
	}
	p := &ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

func platformString(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// pick chooses the manifest that suits a platform best. A manifest that names no platform suits if nothing else does.
func pick(all []ocispec.Descriptor, p ocispec.Platform) (ocispec.Descriptor, error) {
	best, score := ocispec.Descriptor{}, 0
	var have []string
	for _, d := range all {
		n := 1
		if d.Platform != nil && d.Platform.OS != "" && d.Platform.OS != "unknown" {
			have = append(have, platformString(*d.Platform))
			n = suits(*d.Platform, p)
		} else if d.Platform != nil || d.Annotations["vnd.docker.reference.type"] != "" {
			continue // an attestation
		}
		if n > score {
			best, score = d, n
		}
	}
	if score == 0 {
		return best, fmt.Errorf("%w: no image for %s; there are %s", ErrNotFound, platformString(p), strings.Join(have, ", "))
	}
	return best, nil
}

// suits returns how well an image of a platform runs on another one; 0: not at all.
func suits(of, on ocispec.Platform) int {
	if of.OS != on.OS || arch(of.Architecture) != arch(on.Architecture) {
		return 0
	}
	a, b := variant(of), variant(on)
	switch {
	case a == b:
		return 100
	case a > b:
		return 0 // needs a newer processor
	}
	return 50 + int(a[len(a)-1]-'0') // the newest that runs
}

func arch(a string) string {
	switch a {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64":
		return "arm64"
	}
	return a
}

// variant is the variant of a platform, where those without one are put in order too.
func variant(p ocispec.Platform) string {
	if p.Variant != "" {
		return p.Variant
	}
	switch arch(p.Architecture) {
	case "arm":
		return "v7"
	case "arm64":
		return "v8"
	case "amd64":
		return "v1"
	}
	return "v0"
}
