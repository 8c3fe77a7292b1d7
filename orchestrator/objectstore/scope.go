package objectstore

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/client"
)

// scope is the keys that a query can concern.
type scope struct {
	base   string // prefix of the namespace that was asked for, or of all; continue tokens are relative to it
	prefix string // of the keys in question, at least base
	end    string // the keys in question are before it
	key    string // the only key in question, if there is only one
	none   bool   // no key is
}

// listPrefix is the prefix of a namespace's keys, "" is all.
func (c *Collection) listPrefix(namespace string) string {
	if c.kind.Namespaced && namespace != "" {
		return c.cache.prefix + namespace + "/"
	}
	return c.cache.prefix
}

// scope finds what selectors of names leave.
func (c *Collection) scope(namespace string, sel fields.Selector) scope {
	s := scope{base: c.listPrefix(namespace)}
	s.prefix, s.end = s.base, client.PrefixEnd(s.base)
	if sel == nil || sel.Empty() {
		return s
	}
	if ns, ok := sel.RequiresExactMatch("metadata.namespace"); ok && ns != "" && c.kind.Namespaced {
		s.none = namespace != "" && ns != namespace
		if namespace == "" && plain(ns) {
			namespace, s.prefix = ns, c.listPrefix(ns)
			s.end = client.PrefixEnd(s.prefix)
		}
	}
	if name, ok := sel.RequiresExactMatch("metadata.name"); ok && plain(name) && (namespace != "" || !c.kind.Namespaced) {
		s.key = s.prefix + name
		s.prefix, s.end = s.key, s.key+"\x00"
	}
	return s
}

// plain says that a string is one segment of a key.
func plain(s string) bool { return s != "" && !strings.Contains(s, "/") }

// matcher is whether an item matches selectors, nil if there are none.
func matcher(ls labels.Selector, fs fields.Selector) func(*Item) bool {
	if ls != nil && ls.Empty() {
		ls = nil
	}
	if fs != nil && fs.Empty() {
		fs = nil
	}
	switch {
	case ls == nil && fs == nil:
		return nil
	case fs == nil:
		return func(i *Item) bool { return ls.Matches(i.labels()) }
	case ls == nil:
		return func(i *Item) bool { return fs.Matches(i) }
	}
	return func(i *Item) bool { return fs.Matches(i) && ls.Matches(i.labels()) }
}

// continueToken is Kubernetes' own.
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const tokenVersion = "meta.k8s.io/v1"

var (
	errToken        = errors.New("continue key is not valid")
	errTokenVersion = errors.New("continue key is not valid: server does not recognize this encoded version")
	errTokenStart   = errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)")
	errTokenRev     = errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
)

// encodeContinue makes the token for a key on, at a revision; -1 is whatever is there then.
func encodeContinue(key, base string, revision int64) string {
	b, err := json.Marshal(continueToken{tokenVersion, revision, strings.TrimPrefix(key, base)})
	if err != nil {
		panic(err) // strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeContinue returns where to go on. The key is never outside of base.
func decodeContinue(token, base string) (key string, revision int64, err error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", 0, fmt.Errorf("%w: %w", errToken, err)
	}
	var t continueToken
	if err := json.Unmarshal(b, &t); err != nil {
		return "", 0, fmt.Errorf("%w: %w", errToken, err)
	}
	switch {
	case t.Version != tokenVersion:
		return "", 0, fmt.Errorf("%w %v", errTokenVersion, t.Version)
	case t.Revision == 0:
		return "", 0, errTokenRev
	case t.Start == "":
		return "", 0, errTokenStart
	}
	start := "/" + strings.TrimPrefix(t.Start, "/")
	if path.Clean(start) != start {
		return "", 0, fmt.Errorf("%w: %v", errToken, t.Start)
	}
	return base + start[1:], t.Revision, nil
}
