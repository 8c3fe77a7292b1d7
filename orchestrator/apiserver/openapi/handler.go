package openapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/handler3"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const (
	indexPath    = "/openapi/v3"
	version2Path = "/openapi/v2"
)

// Handler serves /openapi/v2 and /openapi/v3 with what is below it, and answers 404 to everything else.
type Handler struct {
	kinds   []*kinds.Kind
	virtual []discovery.Virtual
	builtin map[string]*document // by path: "api/v1", "apis/apps/v1"
	custom  Custom
	remote  func() map[string]string

	mu     sync.Mutex
	last   []*kinds.Kind // what the following are of
	groups map[string]*document
	all    *document // OpenAPI 2
}

// New makes a Handler for kinds that have Go types, for resources that are not stored, for custom resources (nil: there are
// none), and for documents of version 3 that others serve (nil: there are none): their URLs by their paths. Documents are made
// when they are asked for.
func New(all []*kinds.Kind, virtual []discovery.Virtual, custom Custom, remote func() map[string]string) *Handler {
	if remote == nil {
		remote = func() map[string]string { return nil }
	}
	if custom == nil {
		custom = func() []*kinds.Kind { return nil }
	}
	contents := map[schema.GroupVersion]*content{}
	of := func(gv schema.GroupVersion) *content {
		if contents[gv] == nil {
			contents[gv] = &content{}
		}
		return contents[gv]
	}
	for _, k := range all {
		c := of(k.GroupVersion())
		c.kinds = append(c.kinds, k)
	}
	for _, v := range virtual {
		c := of(v.GroupVersion())
		c.virtual = append(c.virtual, v)
	}
	h := &Handler{kinds: all, virtual: virtual, custom: custom, remote: remote, builtin: map[string]*document{}}
	for gv, c := range contents {
		h.builtin[root(gv)[1:]] = version3(*c)
	}
	h.all = h.version2()
	return h
}

func version3(c content) *document {
	return &document{content: c, make: (*content).version3, protobuf: protobuf3}
}

func (h *Handler) version2() *document {
	return &document{content: content{kinds: h.kinds, virtual: h.virtual, custom: h.last}, make: (*content).version2, protobuf: protobuf2}
}

// refresh makes new documents for custom resources that have changed, and returns the documents by path.
func (h *Handler) refresh() (groups map[string]*document, all *document) {
	now := h.custom()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.groups != nil && slices.Equal(now, h.last) {
		return h.groups, h.all
	}
	contents := map[string][]*kinds.Kind{}
	for _, k := range now {
		at := root(k.GroupVersion())[1:]
		contents[at] = append(contents[at], k)
	}
	groups = make(map[string]*document, len(h.builtin)+len(contents))
	for at, custom := range contents {
		if old := h.groups[at]; old != nil && slices.Equal(old.content.custom, custom) {
			groups[at] = old
			continue
		}
		groups[at] = version3(content{custom: custom})
	}
	for at, d := range h.builtin {
		groups[at] = d
	}
	if len(now) > 0 || len(h.last) > 0 {
		h.last = slices.Clone(now)
		h.all = h.version2()
	}
	h.groups = groups
	return h.groups, h.all
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
		return
	}
	groups, all := h.refresh()
	at := strings.TrimSuffix(r.URL.Path, "/")
	switch group, below := strings.CutPrefix(at, indexPath+"/"); {
	case at == version2Path:
		h.serve(w, r, all, "v2", "")
	case at == indexPath:
		index(w, r, groups, h.remote())
	case below && groups[group] != nil:
		h.serve(w, r, groups[group], "v3", group)
	default:
		refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	}
}

// index is the list of documents.
func index(w http.ResponseWriter, r *http.Request, groups map[string]*document, remote map[string]string) {
	list := handler3.OpenAPIV3Discovery{Paths: make(map[string]handler3.OpenAPIV3DiscoveryGroupVersion, len(groups))}
	for group, d := range groups {
		p, err := d.json()
		if err != nil {
			failed(w, err)
			return
		}
		list.Paths[group] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: location(group, p.hash)}
	}
	for group, url := range remote {
		list.Paths[group] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: url}
	}
	text, err := json.Marshal(list)
	if err != nil {
		failed(w, err)
		return
	}
	sum := sha256.Sum256(text)
	etag := strconv.Quote(hex.EncodeToString(sum[:]))
	w.Header().Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	_, _ = w.Write(text) // a client that went away needs no answer
}

func location(group, hash string) string {
	u := url.URL{Path: path.Join(indexPath, group), RawQuery: url.Values{"hash": {hash}}.Encode()}
	return u.String()
}

// serve answers with a document. A document that is asked for by its hash may be kept for ever.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, d *document, version, group string) {
	media, ok := accept(r, version)
	if !ok {
		refuse(w, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only JSON and protobuf are accepted")
		return
	}
	form := d.json
	if media != runtime.ContentTypeJSON {
		form = d.proto
	}
	p, err := form()
	if err != nil {
		failed(w, err)
		return
	}
	header := w.Header()
	if hash := r.URL.Query().Get("hash"); hash != "" && group != "" {
		if hash != p.hash {
			http.Redirect(w, r, location(group, p.hash), http.StatusMovedPermanently)
			return
		}
		header.Set("Cache-Control", "public, immutable, max-age=31536000")
	}
	header.Set("ETag", strconv.Quote(p.hash))
	header.Set("Vary", "Accept, Accept-Encoding")
	if r.Header.Get("If-None-Match") == strconv.Quote(p.hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := p.gzip
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		header.Set("Content-Encoding", "gzip")
	} else if body, err = p.unpack(); err != nil {
		failed(w, err)
		return
	}
	header.Set("Content-Type", media)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a client that went away needs no answer
}

// accept chooses JSON or protobuf. Protobuf has two names; with "@" it is not a valid media type and is not answered.
func accept(r *http.Request, version string) (string, bool) {
	proto := "application/com.github.proto-openapi.spec." + version + ".v1.0+protobuf"
	old := "application/com.github.proto-openapi.spec." + version + "@v1.0+protobuf"
	header := r.Header.Get("Accept")
	if header == "" {
		return runtime.ContentTypeJSON, true
	}
	for _, c := range goautoneg.ParseAccept(header) {
		switch media := c.Type + "/" + c.SubType; media {
		case runtime.ContentTypeJSON, "application/*", "*/*":
			return runtime.ContentTypeJSON, true
		case proto, old:
			return proto, true
		}
	}
	return "", false
}

func failed(w http.ResponseWriter, err error) {
	refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "Internal error occurred: "+err.Error())
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	text, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: message, Reason: reason, Code: int32(code),
	})
	if err != nil {
		http.Error(w, message, code)
		return
	}
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(code)
	_, _ = w.Write(text) // a client that went away needs no answer
}
