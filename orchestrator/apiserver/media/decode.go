package media

import (
	"bytes"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// The media types that are spoken.
const (
	JSON        = "application/json"
	YAML        = "application/yaml"
	Protobuf    = "application/vnd.kubernetes.protobuf"
	CBOR        = "application/cbor"
	cborStream  = "application/cbor-seq"
	protoMagic  = "k8s\x00"
	strictIntro = "strict decoding error: "
)

// types are the spoken media types in the order in which errors name them.
var types = []string{JSON, YAML, Protobuf, CBOR}

// message is what generated protobuf types have.
type message interface {
	runtime.ProtobufMarshaller
	Size() int
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
}

// contentType finds the media type of a body. 415 if it is not spoken.
func contentType(header string) (string, error) {
	if header == "" {
		return JSON, nil
	}
	t, _, err := mime.ParseMediaType(header)
	if err != nil {
		t = header
	}
	if !slices.Contains(types, t) {
		e := apierrors.NewGenericServerResponse(415, "", schema.GroupResource{}, "", "", 0, false)
		e.ErrStatus.Reason = metav1.StatusReasonUnsupportedMediaType
		e.ErrStatus.Message = "the body of the request was in an unknown format - accepted media types include: " + strings.Join(types, ", ")
		return "", e
	}
	return t, nil
}

// Decode reads an object of a kind. validation says what becomes of unknown and duplicate fields: "Ignore" drops them,
// "Warn" (also "") returns warnings, "Strict" fails. Errors are 400 and 415.
func Decode(body []byte, header string, k *kinds.Kind, validation string) (o kinds.Object, warnings []string, err error) {
	o = k.New()
	d := decoding{want: k.GroupVersionKind, into: o}
	if k.Coerce != nil {
		d.coerce = func() ([]string, error) { return k.Coerce(o) }
	}
	warnings, err = d.decode(body, header, validation)
	return o, warnings, err
}

// DecodeInto is Decode for any type.
func DecodeInto(body []byte, header string, want schema.GroupVersionKind, into runtime.Object, validation string) (warnings []string, err error) {
	d := decoding{want: want, into: into}
	return d.decode(body, header, validation)
}

func (d *decoding) decode(body []byte, header, validation string) (warnings []string, err error) {
	media, err := contentType(header)
	if err != nil {
		return nil, err
	}
	var strict []error
	switch media {
	case Protobuf:
		err = d.protobuf(body)
	case CBOR:
		strict, err = d.cbor(body)
	case YAML:
		strict, err = d.yaml(body)
	default:
		strict, err = d.json(body)
	}
	if err == nil {
		err = d.checkType()
	}
	if err == nil && d.coerce != nil {
		var unknown []string
		unknown, err = d.coerce()
		for _, path := range unknown {
			strict = append(strict, fmt.Errorf("unknown field %q", path))
		}
	}
	var status *apierrors.StatusError
	switch {
	case errors.As(err, &status):
		return nil, err
	case err != nil:
		return nil, d.bad(err)
	}
	return d.report(strict, validation)
}

type decoding struct {
	want   schema.GroupVersionKind
	into   runtime.Object
	coerce func() (unknown []string, err error) // nil: into's type says what is unknown
}

func (d *decoding) report(strict []error, validation string) (warnings []string, err error) {
	if len(strict) == 0 || validation == metav1.FieldValidationIgnore {
		return nil, nil
	}
	texts := make([]string, len(strict))
	for i, e := range strict {
		texts[i] = e.Error()
	}
	if validation == metav1.FieldValidationStrict {
		return nil, d.bad(errors.New(strictIntro + strings.Join(texts, ", ")))
	}
	return texts, nil
}

func (d *decoding) bad(err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", d.want.Kind, d.want.Version, d.want.Kind, err))
}

func (d *decoding) json(body []byte) (strict []error, err error) {
	u, free := d.into.(runtime.Unstructured)
	if !free {
		return kjson.UnmarshalStrict(body, d.into)
	}
	content := map[string]any{}
	strict, err = kjson.UnmarshalStrict(body, &content)
	u.SetUnstructuredContent(content)
	return strict, err
}

func (d *decoding) yaml(body []byte) (strict []error, err error) {
	j, err := yaml.YAMLToJSONStrict(body)
	if err != nil {
		loose, lerr := yaml.YAMLToJSON(body)
		if lerr != nil {
			return nil, lerr
		}
		strict, j = append(strict, err), loose
	}
	more, err := d.json(j)
	return append(strict, more...), err
}

func (d *decoding) protobuf(body []byte) error {
	m, ok := d.into.(message)
	if !ok {
		_, err := contentType(Protobuf + "-not-spoken")
		return err
	}
	raw, ok := bytes.CutPrefix(body, []byte(protoMagic))
	if !ok {
		return errors.New("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
	}
	var u runtime.Unknown
	if err := u.Unmarshal(raw); err != nil {
		return err
	}
	if err := m.Unmarshal(u.Raw); err != nil {
		return err
	}
	d.into.GetObjectKind().SetGroupVersionKind(u.GroupVersionKind())
	return nil
}

func (d *decoding) cbor(body []byte) (strict []error, err error) {
	s := cbor.NewSerializer(oneType{d}, oneType{d}, cbor.Strict(true))
	got, gvk, err := s.Decode(body, &d.want, d.into)
	if lax, ok := runtime.AsStrictDecodingError(err); ok {
		strict, err = lax.Errors(), nil
	}
	if err != nil {
		return nil, err
	}
	if got != d.into {
		return nil, fmt.Errorf("no kind %q is registered for version %q", gvk.Kind, gvk.GroupVersion())
	}
	return strict, nil
}

// oneType makes and names objects of the type that is wanted; every kind is taken for it until checkType.
type oneType struct{ d *decoding }

func (t oneType) New(schema.GroupVersionKind) (runtime.Object, error) { return t.d.into, nil }

func (t oneType) ObjectKinds(runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	return []schema.GroupVersionKind{t.d.want}, false, nil
}

func (t oneType) Recognizes(gvk schema.GroupVersionKind) bool { return gvk == t.d.want }

// checkType refuses an object that says that it is another kind, and names the kind of one that says nothing.
func (d *decoding) checkType() error {
	k := d.into.GetObjectKind()
	got := k.GroupVersionKind()
	if got.Kind == "" {
		got.Kind = d.want.Kind
	}
	if got.Group == "" && got.Version == "" {
		got.Group, got.Version = d.want.Group, d.want.Version
	}
	switch {
	case got.GroupVersion() != d.want.GroupVersion() && !metaOptions(got, d.want):
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", got.GroupVersion(), d.want.GroupVersion()))
	case got.Kind != d.want.Kind:
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: converting (%s) to (%s): unknown conversion", got.Kind, got.Version, d.want.Kind, got, d.want))
	}
	k.SetGroupVersionKind(d.want)
	return nil
}

// metaOptions allows options such as DeleteOptions under the name of any group, as clients of old send them.
func metaOptions(got, want schema.GroupVersionKind) bool {
	return want.GroupVersion() == metav1.SchemeGroupVersion && got.Kind == want.Kind
}

// DecodeFree reads content of any kind: YAML, of which JSON is a part, or CBOR. It returns duplicate fields apart.
func DecodeFree(body []byte, isCBOR bool, into *unstructured.Unstructured) (strict []error, err error) {
	if isCBOR {
		return nil, direct.Unmarshal(body, &into.Object)
	}
	d := decoding{into: into}
	return d.yaml(body)
}
