package registration

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// state is what is looked at often.
type state struct {
	// problem is why the node is not ready, "" if it is.
	problem  string
	runtime  *runtimeapi.StatusResponse // nil: it does not answer
	pressure Pressure
	capacity corev1.ResourceList // of devices
	left     corev1.ResourceList // of them for pods
}

// same says whether nothing has changed that has to be told at once.
func (s *state) same(o *state) bool {
	return o != nil && s.problem == o.problem && s.pressure == o.pressure &&
		equality.Semantic.DeepEqual(s.capacity, o.capacity) && equality.Semantic.DeepEqual(s.left, o.left)
}

// state looks.
func (r *Registration) state(ctx context.Context) *state {
	s := &state{}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.cfg.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		s.problem = "container runtime is down: " + err.Error()
	} else {
		s.runtime, s.problem = resp, problemOf(resp.GetStatus())
	}
	if r.cfg.Pressure != nil {
		s.pressure = r.cfg.Pressure()
	}
	if r.cfg.Devices != nil {
		s.capacity, s.left = r.cfg.Devices()
	}
	return s
}

// problemOf says what of a runtime is not ready.
func problemOf(s *runtimeapi.RuntimeStatus) string {
	var problems []string
	for _, of := range []struct{ condition, what string }{{runtimeapi.RuntimeReady, "container runtime"}, {runtimeapi.NetworkReady, "container runtime network"}} {
		i := slices.IndexFunc(s.GetConditions(), func(c *runtimeapi.RuntimeCondition) bool { return c.Type == of.condition })
		switch {
		case i < 0:
			problems = append(problems, fmt.Sprintf("%s not ready: missing required condition %s", of.what, of.condition))
		case !s.Conditions[i].Status:
			c := s.Conditions[i]
			problems = append(problems, fmt.Sprintf("%s not ready: %s=false reason:%s message:%s", of.what, of.condition, c.Reason, c.Message))
		}
	}
	return strings.Join(problems, ", ")
}

// report keeps the status true until the context ends.
func (r *Registration) report(ctx context.Context) {
	var told *state
	var written, looked time.Time
	begun, quick := r.cfg.Clock.Now(), true
	t := r.cfg.Clock.NewTicker(firstLooks)
	defer t.Stop()
	for {
		s, now := r.state(ctx), r.cfg.Clock.Now()
		if !s.same(told) || now.Sub(looked) >= statusEvery {
			wrote, err := r.tell(ctx, s, told == nil || now.Sub(written) >= reportEvery)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				r.cfg.Logger.Warn("the node's status was not written", zap.Error(err))
			default:
				told, looked = s, now
				if wrote {
					written = now
				}
			}
		}
		if quick && (told != nil && told.problem == "" || now.Sub(begun) > patience) {
			quick = false
			t.Reset(lookEvery)
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			return
		}
	}
}

// writeAttempts is how often a status is written that somebody else writes, too.
const writeAttempts = 5

// tell writes the status if it has changed, or in any case.
func (r *Registration) tell(ctx context.Context, s *state, anyway bool) (wrote bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	nodes := r.cfg.Client.CoreV1().Nodes()
	is := r.Node()
	for range writeAttempts {
		want := is.DeepCopy()
		want.Status = r.status(ctx, is, s)
		if !anyway && !changed(&is.Status, &want.Status) {
			return false, nil
		}
		var updated *corev1.Node
		updated, err = nodes.UpdateStatus(ctx, want, metav1.UpdateOptions{})
		switch {
		case err == nil:
			r.last.Store(updated)
			r.tellOf(is, updated)
			return true, nil
		case apierrors.IsNotFound(err):
			return true, r.register(ctx)
		case !apierrors.IsConflict(err):
			return false, err
		}
		if is, err = nodes.Get(ctx, r.cfg.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			return true, r.register(ctx)
		}
		if err != nil {
			return false, err
		}
	}
	return false, err
}

// tellOf makes events of what has changed.
func (r *Registration) tellOf(was, is *corev1.Node) {
	if before, now := was.Status.NodeInfo.BootID, is.Status.NodeInfo.BootID; r.cfg.Events != nil && before != "" && before != now {
		r.cfg.Events.Eventf(is, corev1.EventTypeWarning, "Rebooted", "Node %s has been rebooted, boot id: %s", is.Name, now)
	}
	for _, c := range is.Status.Conditions {
		old := conditionOf(was.Status.Conditions, c.Type)
		if old != nil && old.Status == c.Status {
			continue
		}
		r.cfg.Logger.Info("the node's condition", zap.String("type", string(c.Type)), zap.String("status", string(c.Status)), zap.String("message", c.Message))
		if name := eventOf(c); r.cfg.Events != nil && name != "" {
			r.cfg.Events.Eventf(is, corev1.EventTypeNormal, name, "Node %s status is now: %s", is.Name, name)
		}
	}
}

func eventOf(c corev1.NodeCondition) string {
	if c.Type != corev1.NodeReady {
		return strings.Replace(c.Reason, "Kubelet", "Node", 1)
	}
	if c.Status == corev1.ConditionTrue {
		return "NodeReady"
	}
	return "NodeNotReady"
}

// changed says whether two statuses differ in more than when they were looked at.
func changed(a, b *corev1.NodeStatus) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*corev1.NodeStatus{x, y} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return !equality.Semantic.DeepEqual(x, y)
}

// status is what the node's status is to be. What others wrote into it stays.
func (r *Registration) status(ctx context.Context, is *corev1.Node, s *state) corev1.NodeStatus {
	out := *is.Status.DeepCopy()
	out.Addresses = r.addresses()
	out.DaemonEndpoints.KubeletEndpoint.Port = r.cfg.Port
	r.resources(&out, s)
	out.NodeInfo = r.nodeInfo(ctx, &is.Status.NodeInfo)
	out.Images = r.listImages(ctx, is.Status.Images)
	if s.runtime != nil {
		out.RuntimeHandlers, out.Features = handlersOf(s.runtime), featuresOf(s.runtime)
	}
	if r.cfg.VolumesInUse != nil {
		out.VolumesInUse = r.cfg.VolumesInUse()
	}
	r.conditions(&out, s)
	return out
}

func (r *Registration) addresses() (out []corev1.NodeAddress) {
	for _, a := range r.cfg.Addresses() {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.cfg.Name})
}

// resources sets capacity and allocatable. Resources that neither the machine nor its devices have are kept with nothing left.
func (r *Registration) resources(out *corev1.NodeStatus, s *state) {
	capacity := r.machine.capacity(r.cfg.Dir, r.cfg.MaxPods)
	left := allocatable(capacity, r.cfg.Reserved)
	if r.cfg.ReservedOf != nil {
		left = reduced(left, r.cfg.ReservedOf(capacity))
	}
	maps.Copy(capacity, s.capacity)
	maps.Copy(left, s.left)
	for name, q := range out.Capacity {
		if _, known := capacity[name]; known || !strings.Contains(string(name), "/") {
			continue
		}
		q = q.DeepCopy()
		q.Set(0)
		capacity[name], left[name] = q, q
	}
	out.Capacity, out.Allocatable = capacity, left
}

func (r *Registration) nodeInfo(ctx context.Context, was *corev1.NodeSystemInfo) corev1.NodeSystemInfo {
	i := r.info
	i.KubeletVersion, i.ContainerRuntimeVersion = r.cfg.Version, was.ContainerRuntimeVersion
	if v, err := r.cfg.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
		i.ContainerRuntimeVersion = v.RuntimeName + "://" + v.RuntimeVersion
	}
	return i
}

const (
	maxImages     = 50
	maxImageNames = 5
)

// listImages are the largest images.
func (r *Registration) listImages(ctx context.Context, was []corev1.ContainerImage) []corev1.ContainerImage {
	resp, err := r.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return was
	}
	all := slices.Clone(resp.Images)
	slices.SortFunc(all, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Id, b.Id))
	})
	var out []corev1.ContainerImage
	for _, i := range all[:min(len(all), maxImages)] {
		names := slices.Concat(i.RepoDigests, i.RepoTags)
		if len(names) == 0 {
			names = []string{i.Id}
		}
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: int64(i.Size)})
	}
	return out
}

func handlersOf(s *runtimeapi.StatusResponse) (out []corev1.NodeRuntimeHandler) {
	for _, h := range s.RuntimeHandlers {
		one := corev1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			one.Features = &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b corev1.NodeRuntimeHandler) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func featuresOf(s *runtimeapi.StatusResponse) *corev1.NodeFeatures {
	if s.Features == nil {
		return nil
	}
	return &corev1.NodeFeatures{SupplementalGroupsPolicy: &s.Features.SupplementalGroupsPolicy}
}

// conditions sets the node's own conditions.
func (r *Registration) conditions(out *corev1.NodeStatus, s *state) {
	now := metav1.Time{Time: r.cfg.Clock.Now().Truncate(time.Second)}
	for _, c := range []struct {
		t              corev1.NodeConditionType
		is             bool
		yes, no        string
		message, other string
	}{
		{corev1.NodeMemoryPressure, s.pressure.Memory, "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory", "kubelet has insufficient memory available", "kubelet has sufficient memory available"},
		{corev1.NodeDiskPressure, s.pressure.Disk, "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has disk pressure", "kubelet has no disk pressure"},
		{corev1.NodePIDPressure, s.pressure.PIDs, "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has insufficient PID available", "kubelet has sufficient PID available"},
		{corev1.NodeReady, s.problem == "", "KubeletReady", "KubeletNotReady", "kubelet is posting ready status", s.problem},
	} {
		next := corev1.NodeCondition{Type: c.t, Status: corev1.ConditionFalse, Reason: c.no, Message: c.other, LastHeartbeatTime: now, LastTransitionTime: now}
		if c.is {
			next.Status, next.Reason, next.Message = corev1.ConditionTrue, c.yes, c.message
		}
		if old := conditionOf(out.Conditions, c.t); old == nil {
			out.Conditions = append(out.Conditions, next)
		} else {
			if old.Status == next.Status {
				next.LastTransitionTime = old.LastTransitionTime
			}
			*old = next
		}
	}
}

func conditionOf(all []corev1.NodeCondition, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range all {
		if all[i].Type == t {
			return &all[i]
		}
	}
	return nil
}
