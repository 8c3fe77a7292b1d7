package apiserver

import (
	"context"
	"strconv"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// table is what is served. It is replaced as a whole.
type table struct {
	kinds     []*kinds.Kind
	resources map[schema.GroupVersionResource]*verbs.Resource
	preferred map[schema.GroupResource]*verbs.Resource // the first version of each
}

func newTable(resources []*verbs.Resource) *table {
	t := &table{resources: map[schema.GroupVersionResource]*verbs.Resource{}, preferred: map[schema.GroupResource]*verbs.Resource{}}
	for _, r := range resources {
		t.kinds = append(t.kinds, r.Kind)
		t.resources[r.Kind.GroupVersionResource()] = r
		if gr := r.Kind.GroupResource(); t.preferred[gr] == nil {
			t.preferred[gr] = r
		}
	}
	return t
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// Objects reads objects for the server's own needs. It is the lookup of admission, of identity and of rights.
type Objects struct{ table func() *table }

// collection returns the objects of a resource, or a status error NotFound.
func (o Objects) collection(r schema.GroupResource, name string) (*objectstore.Collection, error) {
	if res := o.table().preferred[r]; res != nil {
		return res.Objects, nil
	}
	return nil, apierrors.NewNotFound(r, name)
}

// Get returns an object as the caches have it, or, if fresh, as it is now.
func (o Objects) Get(ctx context.Context, r schema.GroupResource, namespace, name string, fresh bool) (kinds.Object, error) {
	c, err := o.collection(r, name)
	if err != nil {
		return nil, err
	}
	version := "0"
	if fresh {
		version = ""
	}
	it, err := c.Get(ctx, namespace, name, version)
	if err != nil {
		return nil, err
	}
	return it.Object, nil
}

// List returns the objects of a namespace, "" for all, as the caches have them. Of what is not served there are none.
func (o Objects) List(ctx context.Context, r schema.GroupResource, namespace string) ([]kinds.Object, error) {
	c, err := o.collection(r, "")
	if err != nil {
		return nil, nil //nolint:nilerr // as documented
	}
	if c.Empty() {
		return nil, nil // the usual case for webhooks and policies, which every write asks for
	}
	p, err := c.List(ctx, objectstore.ListQuery{Namespace: namespace, ResourceVersion: "0"})
	if err != nil {
		return nil, err
	}
	out := make([]kinds.Object, len(p.Items))
	for i, it := range p.Items {
		out[i] = it.Object
	}
	return out, nil
}

// find returns an object of a type, from the caches, or from the store if they do not have it.
func find[T kinds.Object](ctx context.Context, o Objects, r schema.GroupResource, namespace, name string) (t T, err error) {
	obj, err := o.Get(ctx, r, namespace, name, false)
	if apierrors.IsNotFound(err) {
		obj, err = o.Get(ctx, r, namespace, name, true)
	}
	if err != nil {
		return t, err
	}
	t, ok := obj.(T)
	if !ok {
		return t, apierrors.NewNotFound(r, name)
	}
	return t, nil
}

// The resources that the server itself reads.
var (
	namespaceResource      = schema.GroupResource{Resource: "namespaces"}
	podResource            = schema.GroupResource{Resource: "pods"}
	nodeResource           = schema.GroupResource{Resource: "nodes"}
	secretResource         = schema.GroupResource{Resource: "secrets"}
	serviceAccountResource = schema.GroupResource{Resource: "serviceaccounts"}
	claimResource          = schema.GroupResource{Resource: "persistentvolumeclaims"}
	volumeResource         = schema.GroupResource{Resource: "persistentvolumes"}
	schemaResource         = schema.GroupResource{Group: flowcontrolv1.GroupName, Resource: "flowschemas"}
	levelResource          = schema.GroupResource{Group: flowcontrolv1.GroupName, Resource: "prioritylevelconfigurations"}
	driverResource         = schema.GroupResource{Group: storagev1.GroupName, Resource: "csidrivers"}
	attachmentResource     = schema.GroupResource{Group: storagev1.GroupName, Resource: "volumeattachments"}
	deviceSliceResource    = schema.GroupResource{Group: resourcev1.GroupName, Resource: "resourceslices"}
	podCertificateResource = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}
)

// byName is Objects without contexts, for package rights.
type byName struct {
	Objects
	ctx context.Context
}

func (b byName) Pod(namespace, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](b.ctx, b.Objects, podResource, namespace, name)
}

func (b byName) Node(name string) (*corev1.Node, error) {
	return find[*corev1.Node](b.ctx, b.Objects, nodeResource, "", name)
}

func (b byName) ServiceAccount(namespace, name string) (*corev1.ServiceAccount, error) {
	return find[*corev1.ServiceAccount](b.ctx, b.Objects, serviceAccountResource, namespace, name)
}

func (b byName) Claim(namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return find[*corev1.PersistentVolumeClaim](b.ctx, b.Objects, claimResource, namespace, name)
}

func (b byName) Volume(name string) (*corev1.PersistentVolume, error) {
	return find[*corev1.PersistentVolume](b.ctx, b.Objects, volumeResource, "", name)
}

func (b byName) Driver(name string) (*storagev1.CSIDriver, error) {
	return find[*storagev1.CSIDriver](b.ctx, b.Objects, driverResource, "", name)
}

// tokenObjects is Objects for package identity.
type tokenObjects struct{ Objects }

func (t tokenObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return find[*corev1.Secret](ctx, t.Objects, secretResource, namespace, name)
}

func (t tokenObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return find[*corev1.ServiceAccount](ctx, t.Objects, serviceAccountResource, namespace, name)
}

func (t tokenObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](ctx, t.Objects, podResource, namespace, name)
}

func (t tokenObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return find[*corev1.Node](ctx, t.Objects, nodeResource, "", name)
}
