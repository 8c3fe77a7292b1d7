package rights

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

// pod lets a kubelet create and delete mirror pods, tell the status of its pods, and evict them.
func (r *Restriction) pod(node string, w *Write) error {
	switch w.Subresource {
	case "":
		switch w.Operation {
		case "CREATE":
			return r.createPod(node, w)
		case "DELETE":
			p, err := r.Objects.Pod(w.Namespace, w.Name)
			if err != nil {
				return err
			}
			if p.Spec.NodeName != node {
				return fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node)
			}
			return nil
		}
		return fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", w.Operation, node)
	case "status":
		return restrictStatus(node, w)
	case "eviction":
		return r.evict(node, w)
	}
	return fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", w.Subresource)
}

func (r *Restriction) createPod(node string, w *Write) error {
	p, ok := w.Object.(*corev1.Pod)
	if !ok {
		return wrongType(w.Object)
	}
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node)
	}
	switch {
	case p.Spec.NodeName != node:
		return fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node)
	case len(p.OwnerReferences) > 1:
		return fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node)
	case len(p.OwnerReferences) == 0:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	}
	switch owner := p.OwnerReferences[0]; {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node:
		return fmt.Errorf("node %q can only create pods with an owner reference set to itself", node)
	case owner.Controller == nil || !*owner.Controller:
		return fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node)
	default:
		n, err := r.Objects.Node(node)
		if apierrors.IsNotFound(err) {
			return err
		}
		if err != nil {
			return w.refuse(fmt.Errorf("error looking up node %s to verify uid: %w", node, err))
		}
		if owner.UID != n.UID {
			return fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, n.UID)
		}
	}
	// What a pod refers to may be read by its node: a mirror pod refers to nothing.
	what, err := refersTo(p)
	if err != nil {
		return fmt.Errorf("error checking mirror pod for API references: %w", err)
	}
	if what != "" {
		return fmt.Errorf("node %q can not create pods that reference %s", node, what)
	}
	return nil
}

// refersTo names a resource that a pod needs from the API, "" if there is none.
func refersTo(p *corev1.Pod) (string, error) {
	if cmp.Or(p.Spec.ServiceAccountName, p.Spec.DeprecatedServiceAccount) != "" {
		return "serviceaccounts", nil
	}
	var found []string
	eachNeed(p, func(resource, name string) {
		if name != "" {
			found = append(found, resource)
		}
	})
	for _, resource := range []string{secretThing, configMapThing} {
		if slices.Contains(found, resource) {
			return resource, nil
		}
	}
	if len(p.Spec.ResourceClaims) > 0 {
		return resourceClaimThing, nil
	}
	for i := range p.Spec.Volumes {
		if what, err := volumeRefersTo(&p.Spec.Volumes[i]); what != "" || err != nil {
			return what, err
		}
	}
	return "", nil
}

func volumeRefersTo(v *corev1.Volume) (string, error) {
	switch {
	case v.ConfigMap != nil:
		return "configmaps (via configmap volumes)", nil
	case v.Secret != nil:
		return "secrets (via secret volumes)", nil
	case v.CSI != nil:
		return "csidrivers (via CSI volumes)", nil
	case v.Glusterfs != nil:
		return "endpoints (via glusterFS volumes)", nil
	case v.PersistentVolumeClaim != nil:
		return "persistentvolumeclaims", nil
	case v.Ephemeral != nil:
		return "persistentvolumeclaims (via ephemeral volumes)", nil
	case v.AzureFile != nil:
		return "secrets (via azureFile volumes)", nil
	case v.Projected == nil:
		if selfContained(&v.VolumeSource) {
			return "", nil
		}
		return "", fmt.Errorf("unknown volume type for volume  %q", v.Name)
	}
	for _, s := range v.Projected.Sources {
		switch {
		case s.ConfigMap != nil:
			return "configmaps (via projected volumes)", nil
		case s.Secret != nil:
			return "secrets (via projected volumes)", nil
		case s.ServiceAccountToken != nil:
			return "serviceaccounts (via projected volumes)", nil
		case s.ClusterTrustBundle != nil:
			return "clustertrustbundles", nil
		case s.PodCertificate != nil:
			return "podcertificates", nil
		case s.DownwardAPI == nil:
			return "", fmt.Errorf("unknown source for projected volume %q", v.Name)
		}
	}
	return "", nil
}

// selfContained reports whether a volume is of a kind that is known to need no object. A kind that is not listed may need one.
func selfContained(v *corev1.VolumeSource) bool {
	return v.AWSElasticBlockStore != nil || v.AzureDisk != nil || v.CephFS != nil || v.Cinder != nil || v.DownwardAPI != nil ||
		v.EmptyDir != nil || v.FC != nil || v.FlexVolume != nil || v.Flocker != nil || v.GCEPersistentDisk != nil ||
		v.GitRepo != nil || v.HostPath != nil || v.Image != nil || v.ISCSI != nil || v.NFS != nil ||
		v.PhotonPersistentDisk != nil || v.PortworxVolume != nil || v.Quobyte != nil || v.RBD != nil || v.ScaleIO != nil ||
		v.StorageOS != nil || v.VsphereVolume != nil
}

func restrictStatus(node string, w *Write) error {
	if w.Operation != "UPDATE" {
		return w.unexpected()
	}
	old, ok := w.Old.(*corev1.Pod)
	if !ok {
		return wrongType(w.Old)
	}
	if old.Spec.NodeName != node {
		return fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	}
	p, ok := w.Object.(*corev1.Pod)
	if !ok {
		return wrongType(w.Object)
	}
	switch same := equality.Semantic.DeepEqual; {
	case !same(old.Labels, p.Labels):
		return fmt.Errorf("node %q cannot update labels through pod status", node)
	case !same(old.Status.ResourceClaimStatuses, p.Status.ResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update resource claim statues", node)
	case !same(old.Status.ExtendedResourceClaimStatus, p.Status.ExtendedResourceClaimStatus):
		return fmt.Errorf("node %q cannot update extended resource claim status", node)
	case !same(old.Status.NodeAllocatableResourceClaimStatuses, p.Status.NodeAllocatableResourceClaimStatuses):
		return fmt.Errorf("node %q cannot update node allocatable resource claim statuses", node)
	}
	return nil
}

func (r *Restriction) evict(node string, w *Write) error {
	if w.Operation != "CREATE" {
		return fmt.Errorf("unexpected operation %s", w.Operation)
	}
	e, ok := w.Object.(*policyv1.Eviction)
	if !ok {
		return wrongType(w.Object)
	}
	name := cmp.Or(w.Name, e.Name)
	if name == "" {
		return errors.New("could not determine pod from request data")
	}
	p, err := r.Objects.Pod(w.Namespace, name)
	if err != nil {
		return err
	}
	if p.Spec.NodeName != node {
		return fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node)
	}
	return nil
}

// token lets a kubelet have tokens for its pods.
func (r *Restriction) token(ctx context.Context, node string, w *Write) error {
	if w.Operation != "CREATE" || w.Subresource != "token" {
		return nil
	}
	t, ok := w.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return wrongType(w.Object)
	}
	ref := t.Spec.BoundObjectRef
	switch {
	case ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "":
		return errors.New("node requested token not bound to a pod")
	case ref.UID == "":
		return errors.New("node requested token with a pod binding without a uid")
	}
	p, err := r.Objects.Pod(w.Namespace, ref.Name)
	switch {
	case err != nil:
		return err
	case ref.UID != p.UID:
		return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID)
	case p.Spec.NodeName != node:
		return errors.New("node requested token bound to a pod scheduled on a different node")
	}
	return r.audience(ctx, w, t, p)
}

// audience is an error if nothing in a pod asks for a token with that audience, and no rule allows it.
func (r *Restriction) audience(ctx context.Context, w *Write, t *authenticationv1.TokenRequest, p *corev1.Pod) error {
	wanted := ""
	switch len(t.Spec.Audiences) {
	case 0:
	case 1:
		wanted = t.Spec.Audiences[0]
	default:
		return errors.New("node may only request 0 or 1 audiences")
	}
	found, err := r.asksFor(p, wanted)
	if found {
		return nil
	}
	if err != nil {
		return w.refuse(fmt.Errorf("error validating audience %q: %w", wanted, err))
	}
	ok, err := r.allowed(ctx, w, "request-serviceaccounts-token-audience", wanted, w.Name)
	if ok {
		return nil
	}
	if err != nil {
		return w.refuse(fmt.Errorf("error authorizing %s to request tokens for audience %q: %w", w.User.Name, wanted, err))
	}
	return fmt.Errorf("%s is not authorized to request tokens for audience %q", w.User.Name, wanted)
}

func (r *Restriction) allowed(ctx context.Context, w *Write, verb, resource, name string) (bool, error) {
	d, _, err := r.Authorizer.Authorize(ctx, Attributes{
		User: w.User, Verb: verb, IsResource: true, Group: w.Resource.Group, Version: w.Resource.Version,
		Resource: resource, Namespace: w.Namespace, Name: name,
	})
	return d == Allow, err
}

// asksFor reports whether a pod has a projected token with that audience, or a volume whose CSI driver wants one.
func (r *Restriction) asksFor(p *corev1.Pod, audience string) (bool, error) {
	var errs []error
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
					return true, nil
				}
			}
		}
		driver, err := r.driverOf(p, v)
		if err == nil && driver != "" {
			var found bool
			if found, err = r.driverWants(driver, audience); found {
				return true, nil
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return false, errors.Join(errs...)
}

func (r *Restriction) driverWants(driver, audience string) (bool, error) {
	d, err := r.Objects.Driver(driver)
	if err != nil {
		return false, err
	}
	for _, t := range d.Spec.TokenRequests {
		if t.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}

// driverOf returns the name of the CSI driver of a volume, "" if it has none.
func (r *Restriction) driverOf(p *corev1.Pod, v *corev1.Volume) (string, error) {
	claim := ""
	switch {
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		claim = p.Name + "-" + v.Name
	case v.PersistentVolumeClaim != nil:
		claim = v.PersistentVolumeClaim.ClaimName
	case v.CSI != nil:
		return v.CSI.Driver, nil
	default:
		return migrated(v.AWSElasticBlockStore != nil, v.GCEPersistentDisk != nil, v.Cinder != nil, v.AzureDisk != nil,
			v.AzureFile != nil, v.VsphereVolume != nil, v.PortworxVolume != nil), nil
	}
	c, err := r.Objects.Claim(p.Namespace, claim)
	if err != nil {
		return "", err
	}
	pv, err := r.Objects.Volume(c.Spec.VolumeName)
	if err != nil {
		return "", err
	}
	if pv.Spec.CSI != nil {
		return pv.Spec.CSI.Driver, nil
	}
	s := &pv.Spec.PersistentVolumeSource
	return migrated(s.AWSElasticBlockStore != nil, s.GCEPersistentDisk != nil, s.Cinder != nil, s.AzureDisk != nil,
		s.AzureFile != nil, s.VsphereVolume != nil, s.PortworxVolume != nil), nil
}

// migrated returns the driver that serves volumes of a kind that was once built in.
func migrated(kinds ...bool) string {
	for i, driver := range []string{"ebs.csi.aws.com", "pd.csi.storage.gke.io", "cinder.csi.openstack.org", "disk.csi.azure.com",
		"file.csi.azure.com", "csi.vsphere.vmware.com", "pxd.portworx.com"} {
		if i < len(kinds) && kinds[i] {
			return driver
		}
	}
	return ""
}

// podCertificate lets a kubelet ask for certificates for its pods. What may be due to objects that have not arrived here yet
// is an internal error, so that the kubelet tries again.
func (r *Restriction) podCertificate(ctx context.Context, node string, w *Write) error {
	switch {
	case w.Operation != "CREATE":
		return fmt.Errorf("unexpected operation %v", w.Operation)
	case w.Subresource != "":
		return fmt.Errorf("unexpected subresource %v", w.Subresource)
	}
	o, ok := w.Object.(*certificatesv1.PodCertificateRequest)
	if !ok {
		return wrongType(w.Object)
	}
	spec := &o.Spec
	if string(spec.NodeName) != node {
		return fmt.Errorf("PodCertificateRequest.Spec.NodeName=%q, which is not the requesting node %q", spec.NodeName, node)
	}
	n, err := r.Objects.Node(node)
	if err != nil {
		return lookup(w, err, "node", node)
	}
	if n.UID != spec.NodeUID {
		return differs(w.Namespace, spec.PodName, "node", spec.NodeUID, n.UID)
	}
	name := w.Namespace + "/" + spec.PodName
	p, err := r.Objects.Pod(w.Namespace, spec.PodName)
	if err != nil {
		return lookup(w, err, "pod", name)
	}
	_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case p.UID != spec.PodUID:
		return differs(w.Namespace, spec.PodName, "pod", spec.PodUID, p.UID)
	case p.Spec.NodeName != node:
		return fmt.Errorf("pod %q is not running on node %q named in the PodCertificateRequest", name, node)
	case mirror:
		return fmt.Errorf("pod %q is a mirror pod", name)
	case p.Spec.ServiceAccountName != spec.ServiceAccountName:
		return fmt.Errorf("PodCertificateRequest for pod %q contains serviceAccountName (%q) that differs from running pod (%q)", name, spec.ServiceAccountName, p.Spec.ServiceAccountName)
	}
	sa, err := r.Objects.ServiceAccount(w.Namespace, spec.ServiceAccountName)
	if err != nil {
		return lookup(w, err, "service account", w.Namespace+"/"+spec.ServiceAccountName)
	}
	if sa.UID != spec.ServiceAccountUID {
		return differs(w.Namespace, spec.PodName, "service account", spec.ServiceAccountUID, sa.UID)
	}
	return r.signer(ctx, w, p, spec.SignerName, spec.ServiceAccountName)
}

// signer is an error if no volume of a pod asks for certificates of a signer, and no rule allows it.
func (r *Restriction) signer(ctx context.Context, w *Write, p *corev1.Pod, signer, account string) error {
	for i := range p.Spec.Volumes {
		if pr := p.Spec.Volumes[i].Projected; pr != nil {
			for _, s := range pr.Sources {
				if s.PodCertificate != nil && s.PodCertificate.SignerName == signer {
					return nil
				}
			}
		}
	}
	// Names of resources have no slashes.
	ok, err := r.allowed(ctx, w, "request-serviceaccounts-podcertificate-signer", strings.ReplaceAll(signer, "/", ":"), account)
	if ok {
		return nil
	}
	if err != nil {
		return w.refuse(fmt.Errorf("error authorizing %s to request podcertificaterequests for signer %q: %w", w.User.Name, signer, err))
	}
	return fmt.Errorf("pod %q does not mount a podCertificate projected volume for signer %q", p.Namespace+"/"+p.Name, signer)
}

func lookup(w *Write, err error, what, name string) error {
	err = fmt.Errorf("while retrieving %s %q named in the PodCertificateRequest: %w", what, name, err)
	if apierrors.IsNotFound(err) {
		return apierrors.NewInternalError(err)
	}
	return w.refuse(err)
}

func differs(namespace, pod, what string, asked, running types.UID) error {
	return apierrors.NewInternalError(fmt.Errorf("PodCertificateRequest for pod %q names %s UID %q, but that of the running one is %q",
		namespace+"/"+pod, what, asked, running))
}
