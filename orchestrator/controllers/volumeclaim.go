package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// syncClaim takes a claim towards its volume.
func (v *volumeController) syncClaim(ctx context.Context, key string) error {
	o, exists, err := v.claim.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	c := o.(*corev1.PersistentVolumeClaim)
	if c.Spec.VolumeName == "" {
		return v.bindOrMake(ctx, c)
	}
	return v.syncBound(ctx, c)
}

// bindOrMake binds a claim to the smallest volume that is large enough, or has one made.
func (v *volumeController) bindOrMake(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	if c.DeletionTimestamp != nil {
		return nil
	}
	class := v.classOf(c)
	delayed := class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer
	var all []*corev1.PersistentVolume
	for _, x := range v.volume.List() {
		if p := x.(*corev1.PersistentVolume); volumehelpers.CheckAccessModes(c, p) {
			all = append(all, p)
		}
	}
	p, err := volumehelpers.FindMatchingVolume(c, all, nil, nil, delayed, true)
	if err != nil {
		return err
	}
	if p != nil {
		return v.bind(ctx, c, p)
	}
	switch {
	case delayed && !volumehelpers.IsDelayBindingProvisioning(c):
		v.events.Event(c, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case class != nil:
		return v.provision(ctx, c, class)
	case volumehelpers.GetPersistentVolumeClaimClass(c) != "":
		v.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", volumehelpers.GetPersistentVolumeClaimClass(c))
	default:
		v.events.Event(c, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	return v.claimStatus(ctx, c, corev1.ClaimPending, nil)
}

// syncBound looks after a claim that names its volume.
func (v *volumeController) syncBound(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	_, completed := c.Annotations[volumehelpers.AnnBindCompleted]
	lost := func(reason, message string) error {
		if !completed {
			return v.claimStatus(ctx, c, corev1.ClaimPending, nil)
		}
		if c.Status.Phase != corev1.ClaimLost {
			v.events.Event(c, corev1.EventTypeWarning, reason, message)
		}
		return v.claimStatus(ctx, c, corev1.ClaimLost, nil)
	}
	p, err := v.volumeNamed(c.Spec.VolumeName)
	switch {
	case err != nil:
		return err
	case p == nil:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case p.Spec.ClaimRef != nil && !volumehelpers.IsVolumeBoundToClaim(p, c):
		return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	case p.Spec.ClaimRef == nil && completed:
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case p.Spec.ClaimRef == nil && volumehelpers.CheckVolumeModeMismatches(&c.Spec, &p.Spec):
		v.events.Eventf(c, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: incompatible volumeMode", p.Name)
		return v.claimStatus(ctx, c, corev1.ClaimPending, nil)
	}
	if err := v.bind(ctx, c, p); err != nil {
		return err
	}
	return v.expand(ctx, c, p)
}

// bind binds both ways. It can be done again after any of its steps.
func (v *volumeController) bind(ctx context.Context, c *corev1.PersistentVolumeClaim, p *corev1.PersistentVolume) error {
	n, dirty, err := volumehelpers.GetBindVolumeToClaim(p, c)
	if err != nil {
		return err
	}
	if dirty {
		if p, err = v.client.CoreV1().PersistentVolumes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if err := v.volumePhase(ctx, p, corev1.VolumeBound, ""); err != nil {
		return err
	}
	b := c.DeepCopy()
	if b.Annotations == nil {
		b.Annotations = map[string]string{}
	}
	if b.Spec.VolumeName != p.Name {
		b.Spec.VolumeName = p.Name
		b.Annotations[volumehelpers.AnnBoundByController] = "yes"
	}
	b.Annotations[volumehelpers.AnnBindCompleted] = "yes"
	if b.Spec.VolumeName != c.Spec.VolumeName || !maps.Equal(b.Annotations, c.Annotations) {
		if b, err = v.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(ctx, b, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return v.claimStatus(ctx, b, corev1.ClaimBound, p)
}

// claimStatus writes the phase of a claim, and what its volume has.
func (v *volumeController) claimStatus(ctx context.Context, c *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, p *corev1.PersistentVolume) error {
	n := c.DeepCopy()
	n.Status.Phase = phase
	switch {
	case p == nil:
		n.Status.AccessModes, n.Status.Capacity = nil, nil
	case c.Status.Phase != corev1.ClaimBound: // later it is for those that grow the volume to say how large it is
		size := p.Spec.Capacity[corev1.ResourceStorage]
		n.Status.AccessModes = slices.Clone(p.Spec.AccessModes)
		n.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
		n.Status.CurrentVolumeAttributesClassName = p.Spec.VolumeAttributesClassName
	}
	if equality.Semantic.DeepEqual(n.Status, c.Status) {
		return nil
	}
	_, err := v.client.CoreV1().PersistentVolumeClaims(c.Namespace).UpdateStatus(ctx, n, metav1.UpdateOptions{})
	return ignoreGone(err)
}

// provision has a volume made for a claim: by itself, or by somebody else who knows how.
func (v *volumeController) provision(ctx context.Context, c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if class.Provisioner == volumehelpers.NotSupportedProvisioner {
		v.events.Event(c, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
		return v.claimStatus(ctx, c, corev1.ClaimPending, nil)
	}
	if c.Annotations[volumehelpers.AnnStorageProvisioner] != class.Provisioner {
		n := c.DeepCopy()
		if n.Annotations == nil {
			n.Annotations = map[string]string{}
		}
		n.Annotations[volumehelpers.AnnStorageProvisioner] = class.Provisioner
		n.Annotations[volumehelpers.AnnBetaStorageProvisioner] = class.Provisioner
		var err error
		if c, err = v.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(ctx, n, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if class.Provisioner != HostPathProvisioner {
		v.events.Eventf(c, corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)
		return v.claimStatus(ctx, c, corev1.ClaimPending, nil)
	}
	p, err := v.hostPath(c, class)
	if err != nil {
		v.events.Eventf(c, corev1.EventTypeWarning, "ProvisioningFailed", "Failed to provision volume with StorageClass %q: %v", class.Name, err)
		if errors.Is(err, errNotThere) && volumehelpers.IsDelayBindingProvisioning(c) {
			return v.reschedule(ctx, c)
		}
		return v.claimStatus(ctx, c, corev1.ClaimPending, nil)
	}
	switch _, err := v.client.CoreV1().PersistentVolumes().Create(ctx, p, metav1.CreateOptions{}); {
	case apierrors.IsAlreadyExists(err): // it was made before, and the informer will show it
		return nil
	case err != nil:
		return err
	}
	v.events.Eventf(c, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", p.Name)
	return nil
}

// errNotThere says that a volume cannot be made on the node that was selected.
var errNotThere = errors.New("not on this node")

// reschedule tells the scheduler that it has to select another node for a claim.
func (v *volumeController) reschedule(ctx context.Context, c *corev1.PersistentVolumeClaim) error {
	n := c.DeepCopy()
	delete(n.Annotations, volumehelpers.AnnSelectedNode)
	_, err := v.client.CoreV1().PersistentVolumeClaims(c.Namespace).Update(ctx, n, metav1.UpdateOptions{})
	return ignoreGone(err)
}

// hostPathDir is where volumes are on their nodes, unless the parameter "path" of their class says otherwise.
const hostPathDir = "/var/lib/keelson/volumes"

// hostPath is the volume that a claim asks the built-in provisioner for: on the node where its pod will run, or on any.
func (v *volumeController) hostPath(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*corev1.PersistentVolume, error) {
	if c.Spec.Selector != nil {
		return nil, fmt.Errorf("claim Selector is not supported")
	}
	if c.Spec.DataSource != nil || c.Spec.DataSourceRef != nil {
		return nil, fmt.Errorf("data sources are not supported")
	}
	if slices.Contains(c.Spec.AccessModes, corev1.ReadWriteMany) || slices.Contains(c.Spec.AccessModes, corev1.ReadOnlyMany) {
		return nil, fmt.Errorf("only the access modes ReadWriteOnce and ReadWriteOncePod are supported: a volume is on one node")
	}
	node, err := v.nodeFor(c, class)
	if err != nil {
		return nil, err
	}
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		return nil, fmt.Errorf("%w: node %q has no label %s", errNotThere, node.Name, corev1.LabelHostname)
	}
	name, dir := "pvc-"+string(c.UID), cmp.Or(class.Parameters["path"], hostPathDir)
	if !path.IsAbs(dir) {
		return nil, fmt.Errorf("the parameter path of the class is %q, not an absolute path", dir)
	}
	size := c.Spec.Resources.Requests[corev1.ResourceStorage]
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Finalizers: []string{nodeVolumeFinalizer},
			Annotations: map[string]string{volumehelpers.AnnDynamicallyProvisioned: HostPathProvisioner, volumehelpers.AnnBoundByController: "yes"},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: size}, AccessModes: c.Spec.AccessModes, VolumeMode: c.Spec.VolumeMode,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name, MountOptions: class.MountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: HostPathProvisioner, VolumeHandle: name, FSType: class.Parameters["csi.storage.k8s.io/fstype"], VolumeAttributes: map[string]string{"path": path.Join(dir, name)}}},
			ClaimRef:               &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}, nil
}

// nodeFor is the node that the scheduler chose for a claim, or, of those that the class allows, the one with the fewest volumes.
func (v *volumeController) nodeFor(c *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*corev1.Node, error) {
	if name := c.Annotations[volumehelpers.AnnSelectedNode]; name != "" {
		o, exists, err := v.nodes.GetByKey(name)
		if err != nil || !exists {
			return nil, fmt.Errorf("%w: node %q not found", errNotThere, name)
		}
		return o.(*corev1.Node), nil
	}
	held := map[string]int{}
	for _, o := range v.volume.List() {
		if p := o.(*corev1.PersistentVolume); madeHere(p) {
			held[hostOf(p)]++
		}
	}
	var best *corev1.Node
	for _, o := range v.nodes.List() {
		n := o.(*corev1.Node)
		if n.Spec.Unschedulable || n.Labels[corev1.LabelHostname] == "" || !allows(class, n) {
			continue
		}
		a, b := held[n.Labels[corev1.LabelHostname]], 0
		if best != nil {
			b = held[best.Labels[corev1.LabelHostname]]
		}
		if best == nil || a < b || a == b && n.Name < best.Name {
			best = n
		}
	}
	if best == nil {
		return nil, fmt.Errorf("there is no node to make the volume on")
	}
	return best, nil
}

// allows says whether a class lets volumes be on a node: if it names topologies at all, the node is in one of them.
func allows(class *storagev1.StorageClass, n *corev1.Node) bool {
	return len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, func(t corev1.TopologySelectorTerm) bool {
		return len(t.MatchLabelExpressions) > 0 && !slices.ContainsFunc(t.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, has := n.Labels[r.Key]
			return !has || !slices.Contains(r.Values, value)
		})
	})
}

// madeHere says whether a volume is one of the built-in provisioner.
func madeHere(p *corev1.PersistentVolume) bool {
	return p.Spec.CSI != nil && p.Spec.CSI.Driver == HostPathProvisioner
}

// hostOf is the label of the node that a volume of the built-in provisioner is on.
func hostOf(p *corev1.PersistentVolume) string {
	if a := p.Spec.NodeAffinity; a != nil && a.Required != nil {
		for _, t := range a.Required.NodeSelectorTerms {
			for _, e := range t.MatchExpressions {
				if e.Key == corev1.LabelHostname && len(e.Values) == 1 {
					return e.Values[0]
				}
			}
		}
	}
	return ""
}

// expand makes a volume of the built-in provisioner as large as its claim asks for. The agent of the node makes the file system
// grow, and says in the claim's status how large it is.
func (v *volumeController) expand(ctx context.Context, c *corev1.PersistentVolumeClaim, p *corev1.PersistentVolume) error {
	if !madeHere(p) || c.Status.Phase != corev1.ClaimBound {
		return nil
	}
	want, have := c.Spec.Resources.Requests[corev1.ResourceStorage], p.Spec.Capacity[corev1.ResourceStorage]
	if want.Cmp(have) > 0 {
		n := p.DeepCopy()
		n.Spec.Capacity[corev1.ResourceStorage] = want
		if _, err := v.client.CoreV1().PersistentVolumes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	is := c.Status.Capacity[corev1.ResourceStorage]
	pending := slices.ContainsFunc(c.Status.Conditions, func(o corev1.PersistentVolumeClaimCondition) bool {
		return o.Type == corev1.PersistentVolumeClaimFileSystemResizePending
	})
	if want.Cmp(is) <= 0 || pending {
		return nil
	}
	n := c.DeepCopy()
	n.Status.Conditions = append(n.Status.Conditions, corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
		Message: "Waiting for user to (re-)start a pod to finish file system resize of volume on node.",
	})
	v.events.Eventf(c, corev1.EventTypeNormal, "FileSystemResizeRequired", "Require file system resize of volume on node")
	_, err := v.client.CoreV1().PersistentVolumeClaims(c.Namespace).UpdateStatus(ctx, n, metav1.UpdateOptions{})
	return err
}
