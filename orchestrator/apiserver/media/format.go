package media

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/munnerz/goautoneg"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// shape is what is shown of objects.
type shape int

const (
	whole shape = iota
	metadata
	table
)

// Format is the form of one answer.
type Format struct {
	media  string // one of types
	shape  shape
	as     schema.GroupVersionKind // of shape
	pretty bool
	stream bool
	// headed says that a table's columns have been sent.
	headed bool
	// start and end are what stands around a message in its envelope; nil: not known yet.
	start, end []byte
}

// shapes are the transformations that can be asked for.
var shapes = map[schema.GroupKind]shape{
	{Group: metav1.GroupName, Kind: "PartialObjectMetadata"}:     metadata,
	{Group: metav1.GroupName, Kind: "PartialObjectMetadataList"}: metadata,
	{Group: metav1.GroupName, Kind: "Table"}:                     table,
}

// Answer says what is answered with.
type Answer struct {
	Watch bool // a stream of events
	Free  bool // objects that have no protobuf form
	Plain bool // something that is no object, and no row of a table
}

// Accept chooses the form that a request asks for. 406 if none of what is asked for can be had.
func Accept(r *http.Request, a Answer) (*Format, error) {
	header := r.Header.Get("Accept")
	if header == "" || header == "*/*" || header == JSON {
		return &Format{media: JSON, stream: a.Watch, pretty: pretty(r)}, nil
	}
	for _, c := range goautoneg.ParseAccept(header) {
		f, ok := accept(c, a)
		if !ok {
			continue
		}
		f.stream, f.pretty = a.Watch, f.media == JSON && pretty(r)
		return f, nil
	}
	return nil, notAcceptable()
}

func notAcceptable() error {
	e := apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", schema.GroupResource{}, "", "", 0, false)
	e.ErrStatus.Reason = metav1.StatusReasonNotAcceptable
	e.ErrStatus.Message = "only the following media types are accepted: " + strings.Join(types, ", ")
	return e
}

func accept(c goautoneg.Accept, a Answer) (*Format, bool) {
	f := &Format{media: c.Type + "/" + c.SubType}
	if c.SubType == "*" && (c.Type == "*" || c.Type == "application") {
		f.media = JSON
	}
	if f.media == cborStream {
		f.media = CBOR
	}
	if as := c.Params["as"]; as != "" {
		f.as = schema.GroupVersionKind{Group: c.Params["g"], Version: c.Params["v"], Kind: as}
		s, ok := shapes[f.as.GroupKind()]
		if !ok || f.as.Version != "v1" && f.as.Version != "v1beta1" {
			return nil, false
		}
		f.shape = s
	}
	if a.Plain && f.shape == table {
		return nil, false
	}
	if f.media == Protobuf && (f.shape == table || a.Free && f.shape == whole) {
		return nil, false // tables hold free values, too
	}
	return f, slices.Contains(types, f.media)
}

// pretty says whether a person seems to read the answer.
func pretty(r *http.Request) bool {
	switch q := r.URL.Query().Get("pretty"); q {
	case "":
	case "0", "false":
		return false
	default:
		return true
	}
	agent := r.UserAgent()
	return slices.ContainsFunc([]string{"curl", "Wget", "Mozilla/5.0"}, func(p string) bool { return strings.HasPrefix(agent, p) })
}

// ContentType is the answer's media type.
func (f *Format) ContentType() string {
	switch {
	case f.stream && f.media == CBOR:
		return cborStream
	case f.stream && f.media == Protobuf:
		return Protobuf + ";stream=watch"
	}
	return f.media
}

// Table says that answers are tables.
func (f *Format) Table() bool { return f.shape == table }

var errNoProtobuf = errors.New("the object has no protobuf form")
