package rights

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// claimRights are verb, subresource, namespace and name, joined by spaces.
type claimRights map[string]bool

func (r claimRights) Authorize(_ context.Context, a Attributes) (Decision, string, error) {
	if a.Group == "resource.k8s.io" && a.Resource == "resourceclaims" && r[strings.Join([]string{a.Verb, a.Subresource, a.Namespace, a.Name}, " ")] {
		return Allow, "", nil
	}
	return NoOpinion, "no", nil
}

func claim(change func(o *resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
	o := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "ns"}}
	o.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{}}}
	if change != nil {
		change(o)
	}
	return o
}

func allocated(o *resourcev1.ResourceClaim) {
	o.Status.Allocation = &resourcev1.AllocationResult{
		Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: "d", Pool: "p", Device: "x"}}},
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}},
		}}},
	}
}

func described(o *resourcev1.ResourceClaim) {
	allocated(o)
	o.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "d", Pool: "p", Device: "x"}}
}

func administered(o *resourcev1.ResourceClaim) {
	allocated(o)
	o.Spec.Devices.Requests[0].Exactly.AdminAccess = ptr(true)
	o.Status.Allocation.Devices.Results[0].AdminAccess = ptr(true)
}

func TestDevices(t *testing.T) {
	driver := &request.User{Name: "system:serviceaccount:kube-system:d", Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n1"}}}
	elsewhere := &request.User{Name: driver.Name, Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"n2"}}}
	free := map[string]string{}
	admin := map[string]string{"resource.kubernetes.io/admin-access": "true"}
	binding, associated, arbitrary := "update binding  ", "associated-node:update driver ns d", "arbitrary-node:update driver ns d"
	for name, c := range map[string]struct {
		user      *request.User
		o, old    *resourcev1.ResourceClaim
		labels    map[string]string
		rights    claimRights
		forbidden string // a part of the message, "" for none
	}{
		"a claim":                     {o: claim(nil), labels: free},
		"administrative":              {o: claim(administered), labels: free, forbidden: "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires"},
		"administrative, with label":  {o: claim(administered), labels: admin},
		"allocation":                  {o: claim(allocated), old: claim(nil), forbidden: `verb="update" permission`},
		"allocation by a scheduler":   {o: claim(allocated), old: claim(nil), rights: claimRights{binding: true}},
		"administrative allocation":   {o: claim(administered), old: claim(nil), labels: free, rights: claimRights{binding: true}, forbidden: "status.allocation.devices.results[0].adminAccess: Forbidden"},
		"as it was":                   {o: claim(administered), old: claim(administered), labels: free},
		"device by nobody":            {o: claim(described), old: claim(allocated), forbidden: `verb="[arbitrary-node:update]" permission`},
		"device by its driver":        {user: driver, o: claim(described), old: claim(allocated), rights: claimRights{associated: true}},
		"device by a driver anywhere": {user: driver, o: claim(described), old: claim(allocated), rights: claimRights{arbitrary: true}},
		"device of another node":      {user: elsewhere, o: claim(described), old: claim(allocated), rights: claimRights{associated: true}, forbidden: `verb="[arbitrary-node:update]" permission`},
		"device that was described":   {o: claim(allocated), old: claim(described), forbidden: "resourceclaims/driver"},
		"device that is given back":   {o: claim(nil), old: claim(described), rights: claimRights{binding: true}},
	} {
		user := c.user
		if user == nil {
			user = &request.User{Name: "u"}
		}
		w := &Write{User: user, Operation: "CREATE", Resource: resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), Namespace: "ns", Object: c.o}
		if c.old != nil {
			w.Operation, w.Subresource, w.Old = "UPDATE", "status", c.old
		}
		d := &Devices{Authorizer: c.rights, Labels: func(_ context.Context, ns string) (map[string]string, error) {
			require.Equal(t, "ns", ns)
			return c.labels, nil
		}}
		err := d.Check(t.Context(), w, "update")
		if c.forbidden == "" {
			require.NoError(t, err, name)
			continue
		}
		require.True(t, apierrors.IsInvalid(err), "%s: %v", name, err)
		require.ErrorContains(t, err, c.forbidden, name)
	}
}
