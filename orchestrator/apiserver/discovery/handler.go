package discovery

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"

	"github.com/munnerz/goautoneg"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	apidiscoverybeta "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Handler serves /api, /apis and the documents of groups and versions below them, and answers 404 to everything else.
type Handler struct {
	documents map[string]runtime.Object
	// aggregated is the other form of /api and /apis.
	aggregated map[string]*apidiscovery.APIGroupDiscoveryList
}

// New makes a Handler for kinds that are stored, for those that are not, and for what others serve.
func New(all []*kinds.Kind, virtual []Virtual, others Aggregated) *Handler {
	rs := collect(all, virtual, others)
	return &Handler{
		documents:  rs.documents(),
		aggregated: map[string]*apidiscovery.APIGroupDiscoveryList{"/api": rs.aggregated(true), "/apis": rs.aggregated(false)},
	}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := strings.TrimSuffix(r.URL.Path, "/")
	document := h.documents[at]
	if at == "/api" {
		document = h.versions(r)
	}
	aggregated := h.aggregated[at]
	f, acceptable := accept(r, aggregated != nil)
	switch {
	case document == nil:
		refuse(w, f, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		refuse(w, f, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
		return
	case !acceptable:
		refuse(w, f, http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable, "only the following media types are accepted: "+strings.Join(mediaTypes, ", "))
		return
	}
	var err error
	if f.version != "" {
		document, err = inVersion(aggregated, f.version)
	}
	var body bytes.Buffer
	if err == nil {
		err = f.encode(document, &body)
	}
	if err != nil {
		refuse(w, f, http.StatusInternalServerError, metav1.StatusReasonInternalError, "Internal error occurred: "+err.Error())
		return
	}
	sum := sha256.Sum256(body.Bytes())
	etag := strconv.Quote(strings.ToUpper(hex.EncodeToString(sum[:])))
	w.Header().Set("ETag", etag)
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", f.contentType())
	_, _ = w.Write(body.Bytes()) // a client that went away needs no answer
}

// versions is the document at /api. Clients are told to stay at the address that they have reached.
func (h *Handler) versions(r *http.Request) *metav1.APIVersions {
	doc := &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{}}
	for _, g := range h.aggregated["/api"].Items {
		for _, v := range g.Versions {
			doc.Versions = append(doc.Versions, v.Version)
		}
	}
	address := r.Host
	if local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		address = local.String()
	}
	doc.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: address}}
	return doc
}

// inVersion returns the aggregated document as v2 or v2beta1, whose messages are the same.
func inVersion(list *apidiscovery.APIGroupDiscoveryList, version string) (runtime.Object, error) {
	meta := metav1.TypeMeta{Kind: listKind, APIVersion: apidiscovery.GroupName + "/" + version}
	if version == "v2" {
		doc := *list
		doc.TypeMeta = meta
		return &doc, nil
	}
	doc := &apidiscoverybeta.APIGroupDiscoveryList{}
	message, err := list.Marshal()
	if err == nil {
		err = doc.Unmarshal(message)
	}
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	doc.TypeMeta = meta
	return doc, nil
}

func refuse(w http.ResponseWriter, f format, code int, reason metav1.StatusReason, message string) {
	s := &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: message, Reason: reason, Code: int32(code),
	}
	f.version = ""
	var body bytes.Buffer
	if err := f.encode(s, &body); err != nil {
		http.Error(w, message, code)
		return
	}
	w.Header().Set("Content-Type", f.contentType())
	w.WriteHeader(code)
	_, _ = w.Write(body.Bytes())
}

const listKind = "APIGroupDiscoveryList"

var mediaTypes = []string{runtime.ContentTypeJSON, runtime.ContentTypeYAML, runtime.ContentTypeProtobuf}

// format is the form of an answer.
type format struct {
	media   string // one of mediaTypes
	version string // of the aggregated document, "" for the other
	pretty  bool
}

// accept chooses the first form that a request asks for and that there is; if there is none, it is JSON and false.
func accept(r *http.Request, aggregated bool) (format, bool) {
	pretty, _ := strconv.ParseBool(r.URL.Query().Get("pretty"))
	chosen := format{media: runtime.ContentTypeJSON, pretty: pretty}
	header := r.Header.Get("Accept")
	if header == "" {
		return chosen, true
	}
	for _, c := range goautoneg.ParseAccept(header) {
		for _, media := range mediaTypes {
			if fits, err := path.Match(c.Type+"/"+c.SubType, media); !fits || err != nil {
				continue
			}
			as := c.Params["as"]
			if v := c.Params["v"]; as != "" {
				if !aggregated || as != listKind || c.Params["g"] != apidiscovery.GroupName || v != "v2" && v != "v2beta1" {
					break
				}
				chosen.version = v
			}
			chosen.media = media
			return chosen, true
		}
	}
	return chosen, false
}

func (f format) contentType() string {
	if f.version == "" {
		return f.media
	}
	return f.media + ";g=" + apidiscovery.GroupName + ";v=" + f.version + ";as=" + listKind
}

func (f format) encode(o runtime.Object, to *bytes.Buffer) error {
	if f.media == runtime.ContentTypeProtobuf {
		return protobuf.NewSerializer(nil, nil).Encode(o, to)
	}
	options := json.SerializerOptions{Yaml: f.media == runtime.ContentTypeYAML, Pretty: f.pretty}
	return json.NewSerializerWithOptions(json.DefaultMetaFactory, nil, nil, options).Encode(o, to)
}
