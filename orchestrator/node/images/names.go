package images

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Reference is a name of an image, with everything that short names leave out.
type Reference struct {
	Host   string // docker.io
	Path   string // library/busybox
	Tag    string // latest; empty if there is a digest
	Digest digest.Digest
}

// ParseReference completes a name: busybox is docker.io/library/busybox:latest. Of a name with tag and digest the digest
// counts.
func ParseReference(s string) (Reference, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Reference{}, fmt.Errorf("images: %q is no name of an image: %w (%w)", s, ErrInvalid, err)
	}
	r := Reference{Host: reference.Domain(named), Path: reference.Path(named)}
	switch n := named.(type) {
	case reference.Digested:
		if r.Digest = n.Digest(); r.Digest.Algorithm() != digest.SHA256 {
			return Reference{}, fmt.Errorf("images: %q: %w: only sha256 digests are supported", s, ErrInvalid)
		}
	case reference.Tagged:
		r.Tag = n.Tag()
	}
	return r, nil
}

// Repo is the name without tag and digest.
func (r Reference) Repo() string { return r.Host + "/" + r.Path }

// String is the complete name.
func (r Reference) String() string {
	if r.Digest != "" {
		return r.Repo() + "@" + r.Digest.String()
	}
	return r.Repo() + ":" + r.Tag
}

// what is asked of a registry for it.
func (r Reference) what() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// Familiar is a complete name as people write it: without docker.io and library.
func Familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

var hexID = regexp.MustCompile(`^[0-9a-f]{4,64}$`)

// idPrefix tells whether a string may be an image's ID or the beginning of one, and returns its hexadecimal digits.
func idPrefix(s string) (string, bool) {
	h := strings.TrimPrefix(s, "sha256:")
	return h, hexID.MatchString(h)
}

// repoOf is a complete name without tag or digest.
func repoOf(name string) string {
	if i := strings.IndexByte(name, '@'); i >= 0 {
		return name[:i]
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i]
	}
	return name
}
