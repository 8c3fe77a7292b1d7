package plugins

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// volumeWorld is what a script works on.
type volumeWorld struct {
	nodes   []*v1.Node
	pods    map[string]*v1.Pod
	table   *storage.Table
	plugins []framework.Plugin
	states  map[string]*framework.CycleState
}

func newVolumeWorld() *volumeWorld {
	return &volumeWorld{
		pods: map[string]*v1.Pod{}, table: storage.New(), states: map[string]*framework.CycleState{},
		plugins: []framework.Plugin{
			newVolumeRestrictions(), newNodeVolumeLimits(),
			newVolumeBinding(&config.VolumeBindingArgs{BindTimeoutSeconds: ptr.To[int64](600)}, nil), newVolumeZone(),
		},
	}
}

// words are the parts of a line: a kind, a name, and what is said of it.
type words struct {
	kind, name string
	args       map[string]string
}

func parse(line string) words {
	f := strings.Fields(line)
	w := words{kind: f[0], name: f[1], args: map[string]string{}}
	for _, a := range f[2:] {
		k, v, _ := strings.Cut(a, "=")
		w.args[k] = v
	}
	return w
}

func (w words) has(k string) bool { _, ok := w.args[k]; return ok }

func (w words) list(k string) []string {
	if w.args[k] == "" {
		return nil
	}
	return strings.Split(w.args[k], ",")
}

// labels reads "k:v,k:v".
func (w words) labels(k string) map[string]string {
	out := map[string]string{}
	for _, l := range w.list(k) {
		key, value, _ := strings.Cut(l, ":")
		out[key] = value
	}
	return out
}

func (w words) meta() metav1.ObjectMeta {
	m := metav1.ObjectMeta{Name: w.name, UID: types.UID(w.name), Labels: w.labels("labels"), Annotations: map[string]string{}}
	if w.has("deleted") {
		m.DeletionTimestamp = &metav1.Time{}
	}
	return m
}

func (w words) modes() (out []v1.PersistentVolumeAccessMode) {
	for _, m := range w.list("modes") {
		out = append(out, map[string]v1.PersistentVolumeAccessMode{"RWO": v1.ReadWriteOnce, "RWX": v1.ReadWriteMany, "RWOP": v1.ReadWriteOncePod}[m])
	}
	if out == nil {
		out = []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}
	}
	return out
}

func (w words) size() v1.ResourceList {
	size := w.args["size"]
	if size == "" {
		size = "1Gi"
	}
	return v1.ResourceList{v1.ResourceStorage: resource.MustParse(size)}
}

// objectOf is the object of storage that a line describes.
func objectOf(w words) any {
	switch w.kind {
	case "class":
		c := &storagev1.StorageClass{ObjectMeta: w.meta(), Provisioner: "x.csi", VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
		if w.has("static") {
			c.Provisioner = volumehelpers.NotSupportedProvisioner
		}
		if w.has("immediate") {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
		}
		for k, v := range w.labels("allowed") {
			c.AllowedTopologies = append(c.AllowedTopologies, v1.TopologySelectorTerm{MatchLabelExpressions: []v1.TopologySelectorLabelRequirement{{Key: k, Values: strings.Split(v, "|")}}})
		}
		return c
	case "pv":
		v := &v1.PersistentVolume{ObjectMeta: w.meta(), Status: v1.PersistentVolumeStatus{Phase: v1.VolumeAvailable}}
		v.Spec.Capacity, v.Spec.AccessModes, v.Spec.StorageClassName = w.size(), w.modes(), w.args["class"]
		v.Spec.CSI = &v1.CSIPersistentVolumeSource{Driver: "x.csi", VolumeHandle: w.name}
		if c := w.args["claim"]; c != "" {
			v.Spec.ClaimRef = &v1.ObjectReference{Namespace: "default", Name: c, UID: types.UID(c)}
		}
		for k, value := range w.labels("in") {
			v.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
				MatchExpressions: []v1.NodeSelectorRequirement{{Key: k, Operator: v1.NodeSelectorOpIn, Values: []string{value}}},
			}}}}
		}
		return v
	case "pvc":
		c := &v1.PersistentVolumeClaim{ObjectMeta: w.meta()}
		c.Namespace, c.Spec.Resources.Requests, c.Spec.AccessModes, c.Spec.VolumeName = "default", w.size(), w.modes(), w.args["volume"]
		if class, ok := w.args["class"]; ok {
			c.Spec.StorageClassName = &class
		}
		if w.has("volume") && !w.has("prebound") {
			c.Annotations[volumehelpers.AnnBindCompleted] = "yes"
		}
		if n := w.args["selected"]; n != "" {
			c.Annotations[volumehelpers.AnnSelectedNode] = n
		}
		if w.has("lost") {
			c.Status.Phase = v1.ClaimLost
		}
		if o := w.args["owner"]; o != "" {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: o, UID: types.UID(o), Controller: ptr.To(true)}}
		}
		return c
	case "csinode":
		limit, _ := strconv.Atoi(w.args["limit"])
		return &storagev1.CSINode{ObjectMeta: w.meta(), Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
			Name: "x.csi", Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To(int32(limit))},
		}}}}
	case "driver":
		return &storagev1.CSIDriver{ObjectMeta: w.meta(), Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(w.has("capacity"))}}
	case "room":
		return &storagev1.CSIStorageCapacity{ObjectMeta: w.meta(), StorageClassName: w.args["class"], Capacity: ptr.To(w.size()[v1.ResourceStorage]), NodeTopology: &metav1.LabelSelector{MatchLabels: w.labels("in")}}
	case "attachment":
		return &storagev1.VolumeAttachment{ObjectMeta: w.meta(), Spec: storagev1.VolumeAttachmentSpec{NodeName: w.args["node"], Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To(w.args["pv"])}}}
	}
	panic("unknown kind " + w.kind)
}

func (w words) pod() *v1.Pod {
	p := newPod(w.name, onto(w.args["on"]))
	for _, c := range w.list("claims") {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: c, VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	for _, c := range w.list("ephemeral") {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: c, VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}})
	}
	for _, c := range w.list("disks") {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: c, VolumeSource: v1.VolumeSource{GCEPersistentDisk: &v1.GCEPersistentDiskVolumeSource{PDName: c, ReadOnly: w.has("readonly")}}})
	}
	return p
}

func (w *volumeWorld) add(line string) {
	switch o := parse(line); o.kind {
	case "node":
		n := newNode(o.name)
		for k, v := range o.labels("labels") {
			n.Labels[k] = v
		}
		w.nodes = append(w.nodes, n)
	case "pod":
		w.pods[o.name] = o.pod()
	default:
		w.table.Set(objectOf(o))
	}
}

func (w *volumeWorld) snapshot() *framework.Snapshot {
	var pods []*v1.Pod
	for _, p := range w.pods {
		pods = append(pods, p)
	}
	return newSnapshot(&testCluster{storage: w.table}, w.nodes, pods...)
}

// filter asks all plugins, as an attempt does.
func (w *volumeWorld) filter(pod *v1.Pod) string {
	s, state, in := w.snapshot(), framework.NewCycleState(), info(pod)
	w.states[pod.Name] = state
	var filters []framework.Filter
	for _, p := range w.plugins {
		_, st := p.(framework.PreFilter).PreFilter(state, in, s)
		switch {
		case st.IsSkip():
		case !st.IsSuccess():
			return fmt.Sprintf("%s: %s\n", p.Name(), say(st)[0])
		default:
			filters = append(filters, p.(framework.Filter))
		}
	}
	var out strings.Builder
	for _, n := range s.Nodes() {
		verdict := "fits"
		for _, f := range filters {
			if st := f.Filter(state, in, n); !st.IsSuccess() {
				verdict = fmt.Sprintf("%s: %s", f.Name(), say(st)[0])
				break
			}
		}
		fmt.Fprintf(&out, "%s: %s\n", n.Name(), verdict)
	}
	return out.String()
}

// reserve chooses a node, and says what was decided.
func (w *volumeWorld) reserve(t *testing.T, pod *v1.Pod, node string) string {
	binding := w.plugins[2].(framework.Reserve)
	if st := binding.Reserve(context.Background(), w.states[pod.Name], pod, node); !st.IsSuccess() {
		return say(st)[0] + "\n"
	}
	pod.Spec.NodeName = node
	d := framework.Data[*podClaims](w.states[pod.Name], volumeBindingKey).decision
	if d == nil {
		return "nothing to do\n"
	}
	var out strings.Builder
	for _, m := range d.Matches {
		fmt.Fprintf(&out, "%s gets %s\n", m.Claim.Name, m.Volume.Name)
	}
	for _, c := range d.Provision {
		fmt.Fprintf(&out, "%s is made on %s\n", c.Name, node)
	}
	fmt.Fprintf(&out, "held: %d\n", w.table.Held())
	require.False(t, d.Empty())
	return out.String()
}

// hints lists the plugins that would have a pod tried again because of an object that came, or, with old, changed.
func (w *volumeWorld) hints(pod *v1.Pod, old, now string) string {
	kinds := map[string]framework.Resource{
		"pvc": framework.PersistentVolumeClaim, "pv": framework.PersistentVolume, "class": framework.StorageClass, "csinode": framework.CSINode,
		"driver": framework.CSIDriver, "room": framework.CSIStorageCapacity, "attachment": framework.VolumeAttachment,
		"pod": framework.AssignedPod,
	}
	c, action, kind := framework.Change{}, framework.Update, ""
	object := func(line string) any {
		o := parse(line)
		if kind = o.kind; kind == "pod" {
			return o.pod()
		}
		return objectOf(o)
	}
	if old != "" {
		c.Old, action = object(old), framework.Delete
	}
	if now != "" {
		c.New = object(now)
		action = map[bool]framework.Action{true: framework.Add, false: framework.Update}[old == ""]
	}
	var out []string
	for _, p := range w.plugins {
		if helps(p.(framework.Requeuer), pod, framework.Event{Resource: kinds[kind], Action: action}, c) {
			out = append(out, p.Name())
		}
	}
	slices.Sort(out)
	return strings.Join(append(out, ""), "\n")
}

// TestVolumes runs scripts: what pods with claims are told, and what is decided for them.
func TestVolumes(t *testing.T) {
	datadriven.Walk(t, "testdata/volumes", func(t *testing.T, path string) {
		w := newVolumeWorld()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			pod := func() *v1.Pod { return w.pods[d.CmdArgs[0].Key] }
			lines := strings.Split(d.Input, "\n")
			switch d.Cmd {
			case "new":
				w = newVolumeWorld()
				fallthrough
			case "set":
				for _, l := range lines {
					w.add(l)
				}
				return ""
			case "remove":
				for _, l := range lines {
					if o := parse(l); o.kind == "pod" {
						delete(w.pods, o.name)
					} else {
						w.table.Remove(objectOf(o))
					}
				}
				return ""
			case "filter":
				w.add(d.Input)
				return w.filter(w.pods[parse(d.Input).name])
			case "reserve":
				return w.reserve(t, pod(), d.CmdArgs[1].Key)
			case "unreserve":
				w.plugins[2].(framework.Reserve).Unreserve(context.Background(), w.states[pod().Name], pod(), "")
				pod().Spec.NodeName = ""
				return fmt.Sprintf("held: %d\n", w.table.Held())
			case "held":
				return fmt.Sprintf("held: %d\n", w.table.Held())
			case "hints":
				old, now := "", lines[0]
				if len(lines) > 1 {
					old, now = lines[0], lines[1]
				}
				if d.HasArg("gone") {
					old, now = lines[0], ""
				}
				return w.hints(pod(), old, now)
			}
			t.Fatalf("unknown command %q", d.Cmd)
			return ""
		})
	})
}
