package media

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const deployment = `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}, "annotations": {"x": "y"}},
	"spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
	"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"tolerations": [{"key": "k", "tolerationSeconds": 3}], "containers": [{
		"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}}}]}}}}`

// faults writes JSON with faults: fields twice, unknown, of another case, and values of another type.
type faults struct {
	*rand.Rand
	strings.Builder
}

func (f *faults) write(v any) {
	switch v := v.(type) {
	case map[string]any:
		f.object(v)
	case []any:
		f.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				f.WriteByte(',')
			}
			f.write(e)
		}
		f.WriteByte(']')
	default:
		if f.IntN(60) == 0 {
			others := []string{"null", "true", "1", "1.5", `"x"`, "[]", "{}"}
			f.WriteString(others[f.IntN(len(others))])
			return
		}
		text, _ := json.Marshal(v) // it was JSON
		f.Write(text)
	}
}

func (f *faults) object(o map[string]any) {
	f.WriteByte('{')
	comma := ""
	put := func(name string, v any) {
		fmt.Fprintf(f, "%s%q:", comma, name)
		comma = ","
		f.write(v)
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		if name == "apiVersion" || name == "kind" {
			fmt.Fprintf(f, "%s%q:%q", comma, name, o[name])
			comma = ","
			continue
		}
		written := name
		if f.IntN(40) == 0 {
			written = strings.ToUpper(name[:1]) + name[1:]
		}
		put(written, o[name])
		if f.IntN(30) == 0 {
			put(name, o[name])
		}
		if f.IntN(40) == 0 {
			put(fmt.Sprint("unknown", f.IntN(3)), map[string]any{"q": []any{1.0}})
		}
	}
	f.WriteByte('}')
}

// What is wrong with a document is what the strict decoder of client-go finds, word for word.
func TestStrict(t *testing.T) {
	var k *kinds.Kind
	for _, one := range kinds.Builtin() {
		if one.GroupVersionKind == appsv1.SchemeGroupVersion.WithKind("Deployment") {
			k = one
		}
	}
	oracle := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var good any
	require.NoError(t, json.Unmarshal([]byte(deployment), &good))
	const prefix, documents = `Deployment in version "v1" cannot be handled as a Deployment: `, 1000
	random, wrong := rand.New(rand.NewPCG(1, 2)), 0
	for range documents {
		f := &faults{Rand: random}
		f.write(good)
		text, media := []byte(f.String()), JSON
		if converted, err := yaml.JSONToYAML(text); err == nil && random.IntN(3) == 0 {
			text, media = converted, YAML
		}
		_, _, want := oracle.Decode(text, nil, k.New())
		_, warnings, err := Decode(text, media, k, "Strict")
		require.Empty(t, warnings)
		if want == nil {
			require.NoError(t, err, "%s", text)
			continue
		}
		wrong++
		require.EqualError(t, err, prefix+want.Error(), "%s", text)
		_, warnings, err = Decode(text, media, k, "Warn")
		if list, ok := strings.CutPrefix(want.Error(), strictIntro); ok {
			require.NoError(t, err)
			require.Equal(t, list, strings.Join(warnings, ", "))
		} else {
			require.EqualError(t, err, prefix+want.Error())
		}
	}
	require.Greater(t, wrong, documents/2)
	require.Less(t, wrong, documents)
}
