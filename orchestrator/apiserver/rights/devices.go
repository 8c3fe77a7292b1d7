package rights

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// nodeNameExtra is where a bound token says on which node its pod is.
const nodeNameExtra = "authentication.kubernetes.io/node-name"

// Devices keeps claims of devices to who may have them: administrative access to namespaces with a label, allocation to
// schedulers, and what is said of a device to its driver.
type Devices struct {
	Authorizer Authorizer
	// Labels returns the labels of a namespace.
	Labels func(ctx context.Context, namespace string) (map[string]string, error)
}

// Check is an error, for the client, if somebody may not write that. Verb is the request's.
func (d *Devices) Check(ctx context.Context, w *Write, verb string) error {
	if w.Resource.Group != resourcev1.GroupName || w.Operation != "CREATE" && w.Operation != "UPDATE" {
		return nil
	}
	var l field.ErrorList
	var name, kind string
	switch o := w.Object.(type) {
	case *resourcev1.ResourceClaim:
		name, kind = o.Name, "ResourceClaim"
		switch old, _ := w.Old.(*resourcev1.ResourceClaim); {
		case old == nil:
			l = d.administrative(ctx, w.Namespace, requested(&o.Spec.Devices))
		case w.Subresource == "status":
			l = d.status(ctx, w, verb, &o.Status, &old.Status)
		}
	case *resourcev1.ResourceClaimTemplate:
		name, kind = o.Name, "ResourceClaimTemplate"
		if w.Old == nil {
			l = d.administrative(ctx, w.Namespace, requested(&o.Spec.Spec.Devices))
		}
	}
	if len(l) == 0 {
		return nil
	}
	return apierrors.NewInvalid(resourcev1.SchemeGroupVersion.WithKind(kind).GroupKind(), name, l)
}

// requested is where a claim asks for administrative access, nil if it does not.
func requested(c *resourcev1.DeviceClaim) *field.Path {
	for i := range c.Requests {
		if e := c.Requests[i].Exactly; e != nil && e.AdminAccess != nil && *e.AdminAccess {
			return field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// granted is where a claim has administrative access, nil if it has not.
func granted(s *resourcev1.ResourceClaimStatus) *field.Path {
	if s.Allocation == nil {
		return nil
	}
	for i := range s.Allocation.Devices.Results {
		if a := s.Allocation.Devices.Results[i].AdminAccess; a != nil && *a {
			return field.NewPath("status", "allocation", "devices", "results").Index(i).Child("adminAccess")
		}
	}
	return nil
}

// administrative requires a label of the namespace for administrative access, which is asked for at a path, if it is.
func (d *Devices) administrative(ctx context.Context, namespace string, at *field.Path) field.ErrorList {
	if at == nil {
		return nil
	}
	switch labels, err := d.Labels(ctx, namespace); {
	case err != nil:
		return field.ErrorList{field.InternalError(at, fmt.Errorf("could not retrieve namespace to verify admin access: %w", err))}
	case labels[resourcev1.DRAAdminNamespaceLabelKey] != "true":
		return field.ErrorList{field.Forbidden(at,
			fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

func (d *Devices) status(ctx context.Context, w *Write, verb string, s, old *resourcev1.ResourceClaimStatus) (l field.ErrorList) {
	if granted(old) == nil {
		l = d.administrative(ctx, w.Namespace, granted(s))
	}
	same, at := equality.Semantic.DeepEqual, field.NewPath("status")
	if !same(s.Allocation, old.Allocation) || !same(s.ReservedFor, old.ReservedFor) {
		if err := d.may(ctx, w, verb, resourcev1.SubresourceBinding, "", ""); err != nil {
			l = append(l, field.Forbidden(at.Child("allocation"),
				fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, verb, err)))
		}
	}
	if s.Allocation == nil {
		return l // what drivers said is dropped
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + verb}
	if node := allocatedNode(s.Allocation); node != "" && onNode(w.User, node) {
		verbs = []string{resourcev1.VerbPrefixAssociatedNode + verb, verbs[0]}
	}
	for _, driver := range changedDrivers(s, old) {
		var first error
		for _, v := range verbs {
			err := d.may(ctx, w, v, resourcev1.SubresourceDriver, w.Namespace, driver)
			if err == nil {
				first = nil
				break
			}
			if first == nil {
				first = err
			}
		}
		if first != nil {
			l = append(l, field.Forbidden(at.Child("devices"),
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, first)))
		}
	}
	return l
}

// may asks for a right on a subresource that is there for rights only.
func (d *Devices) may(ctx context.Context, w *Write, verb, subresource, namespace, name string) error {
	decision, reason, err := d.Authorizer.Authorize(ctx, Attributes{
		User: w.User, Verb: verb, IsResource: true, Group: resourcev1.GroupName, Version: w.Resource.Version,
		Resource: "resourceclaims", Subresource: subresource, Namespace: namespace, Name: name,
	})
	switch {
	case decision == Allow:
		return nil
	case err != nil && reason != "":
		return fmt.Errorf("%w: %s", err, reason)
	case err != nil:
		return err
	}
	msg := fmt.Sprintf("User %q cannot %s resource %q in API group %q", w.User.Name, verb, "resourceclaims/"+subresource, resourcev1.GroupName)
	if namespace == "" {
		msg += " at the cluster scope"
	} else {
		msg += fmt.Sprintf(" in the namespace %q", namespace)
	}
	if reason != "" {
		msg += ": " + reason
	}
	return errors.New(msg)
}

// changedDrivers are the drivers of devices of which something else is said now, sorted.
func changedDrivers(s, old *resourcev1.ResourceClaimStatus) []string {
	type id struct{ driver, pool, device, share string }
	collect := func(s *resourcev1.ResourceClaimStatus) map[id]*resourcev1.AllocatedDeviceStatus {
		m := make(map[id]*resourcev1.AllocatedDeviceStatus, len(s.Devices))
		for i := range s.Devices {
			d := &s.Devices[i]
			k := id{driver: d.Driver, pool: d.Pool, device: d.Device}
			if d.ShareID != nil {
				k.share = *d.ShareID
			}
			m[k] = d
		}
		return m
	}
	now, before, drivers := collect(s), collect(old), map[string]bool{}
	for k, d := range now {
		if was := before[k]; was == nil || !equality.Semantic.DeepEqual(d, was) {
			drivers[k.driver] = true
		}
	}
	for k := range before {
		if now[k] == nil {
			drivers[k.driver] = true
		}
	}
	return slices.Sorted(maps.Keys(drivers))
}

// allocatedNode is the one node on which the devices can be used, "" if there are more.
func allocatedNode(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	t := &a.NodeSelector.NodeSelectorTerms[0]
	if len(t.MatchExpressions) != 0 || len(t.MatchFields) != 1 {
		return ""
	}
	f := &t.MatchFields[0]
	if f.Key != "metadata.name" || f.Operator != "In" || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// onNode says whether a user is a service account whose token is bound to a pod on that node.
func onNode(u *request.User, node string) bool {
	names := u.Extra[nodeNameExtra]
	return strings.HasPrefix(u.Name, "system:serviceaccount:") && len(names) == 1 && names[0] == node
}
