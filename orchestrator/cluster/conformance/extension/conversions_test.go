package extension

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// conversions are behaviours of conversion webhooks.
func conversions() conformance.Behaviours {
	return conformance.Behaviours{
		"CustomResourceConversionWebhook should be able to convert from CR v1 to CR v2":           convertOne,
		"CustomResourceConversionWebhook should be able to convert a non homogeneous list of CRs": convertList,
	}
}

// convert is a webhook that converts between v1, which has hostPort, and v2, which has host and port.
func convert(w http.ResponseWriter, r *http.Request) {
	var review apiextensions.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "no ConversionReview", http.StatusBadRequest)
		return
	}
	out := &apiextensions.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	for _, raw := range review.Request.Objects {
		o := &unstructured.Unstructured{}
		if err := o.UnmarshalJSON(raw.Raw); err != nil {
			out.Result = metav1.Status{Status: metav1.StatusFailure, Message: err.Error()}
			break
		}
		change(o, review.Request.DesiredAPIVersion)
		out.ConvertedObjects = append(out.ConvertedObjects, runtime.RawExtension{Object: o})
	}
	review.Request, review.Response = nil, out
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	_ = json.NewEncoder(w).Encode(&review) // the client is gone
}

func change(o *unstructured.Unstructured, version string) {
	both, hasBoth := o.Object["hostPort"].(string)
	host, hasHost := o.Object["host"].(string)
	port, hasPort := o.Object["port"].(string)
	switch {
	case strings.HasSuffix(version, "/v2") && hasBoth:
		delete(o.Object, "hostPort")
		o.Object["host"], o.Object["port"], _ = strings.Cut(both, ":")
	case strings.HasSuffix(version, "/v1") && (hasHost || hasPort):
		delete(o.Object, "host")
		delete(o.Object, "port")
		o.Object["hostPort"] = host + ":" + port
	}
	o.SetAPIVersion(version)
}

// addresses is a definition of two versions between which a webhook converts.
func addresses(t *testing.T) *apiextensions.CustomResourceDefinition {
	s := serveWebhooks(t)
	text := apiextensions.JSONSchemaProps{Type: "string"}
	d := definition(apiextensions.NamespaceScoped, "",
		version("v1", true, &apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{"hostPort": text}}),
		version("v2", false, &apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{"host": text, "port": text}}))
	d.Spec.Conversion = &apiextensions.CustomResourceConversion{
		Strategy: apiextensions.WebhookConverter,
		Webhook: &apiextensions.WebhookConversion{
			ClientConfig:             &apiextensions.WebhookClientConfig{URL: ptr.To(s.url + "/convert"), CABundle: s.ca},
			ConversionReviewVersions: []string{"v1", "v1beta1"},
		},
	}
	return d
}

// isV1 and isV2 check an object that was made in v1.
func isV1(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	require.True(t, strings.HasSuffix(o.GetAPIVersion(), "/v1"))
	require.Equal(t, "localhost:8080", o.Object["hostPort"])
	require.NotContains(t, o.Object, "host")
	require.NotContains(t, o.Object, "port")
}

func isV2(t *testing.T, o *unstructured.Unstructured) {
	t.Helper()
	require.True(t, strings.HasSuffix(o.GetAPIVersion(), "/v2"))
	require.NotContains(t, o.Object, "hostPort")
	require.Equal(t, "localhost", o.Object["host"])
	require.Equal(t, "8080", o.Object["port"])
}

func convertOne(t *testing.T, e *conformance.Env) {
	d := define(t, e, addresses(t))
	_, err := objects(t, e, d, "v1").Create(e.Ctx, object(d, "v1", "one", map[string]any{"hostPort": "localhost:8080"}), metav1.CreateOptions{})
	require.NoError(t, err)
	o, err := objects(t, e, d, "v2").Get(e.Ctx, "one", metav1.GetOptions{})
	require.NoError(t, err)
	isV2(t, o)
}

func convertList(t *testing.T, e *conformance.Env) {
	d := define(t, e, addresses(t))
	first := object(d, "v1", "one", map[string]any{"hostPort": "localhost:8080"})
	_, err := objects(t, e, d, "v1").Create(e.Ctx, first, metav1.CreateOptions{})
	require.NoError(t, err)

	definitions := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		now, err := definitions.Get(e.Ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now.Spec.Versions[0].Storage, now.Spec.Versions[1].Storage = false, true
		_, err = definitions.Update(e.Ctx, now, metav1.UpdateOptions{})
		return err
	}))
	second := object(d, "v1", "two", map[string]any{"hostPort": "localhost:8080"})
	_, err = objects(t, e, d, "v1").Create(e.Ctx, second, metav1.CreateOptions{})
	require.NoError(t, err)

	for version, check := range map[string]func(*testing.T, *unstructured.Unstructured){"v1": isV1, "v2": isV2} {
		list, err := objects(t, e, d, version).List(e.Ctx, metav1.ListOptions{})
		require.NoError(t, err)
		require.Len(t, list.Items, 2)
		var names []string
		for i := range list.Items {
			check(t, &list.Items[i])
			names = append(names, list.Items[i].GetName())
		}
		require.Equal(t, []string{"one", "two"}, names)
	}
}
