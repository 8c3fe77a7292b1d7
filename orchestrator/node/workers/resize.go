package workers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
)

// resizeState is how far a change of a pod's resources has come.
type resizeState struct {
	pending string // reason why it is not allocated, "" if it is
	message string
	active  bool   // allocated, but not in effect yet
	failed  string // why not
}

func (w *worker) resizeStep(_ context.Context, _ glance) {}

func (r *report) resizeConditions(_ *corev1.PodStatus) {}

// actual are the resources that a running container has: what the runtime says, or what it was given.
func actual(c *corev1.Container, have *runtimeapi.ContainerResources) *corev1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	l := have.GetLinux()
	if l == nil {
		return r
	}
	if l.MemoryLimitInBytes > 0 && r.Limits != nil {
		replace(r.Limits, corev1.ResourceMemory, *resource.NewQuantity(l.MemoryLimitInBytes, resource.BinarySI))
	}
	if l.CpuQuota > 0 && l.CpuPeriod > 0 && r.Limits != nil {
		milli := l.CpuQuota * 1000 / l.CpuPeriod
		if cgroup.Quota(r.Limits.Cpu().MilliValue()) != l.CpuQuota*cgroup.Period/l.CpuPeriod {
			replace(r.Limits, corev1.ResourceCPU, *resource.NewMilliQuantity(milli, resource.DecimalSI))
		}
	}
	if l.CpuShares > 0 && r.Requests != nil && cgroup.Shares(r.Requests.Cpu().MilliValue()) != l.CpuShares {
		replace(r.Requests, corev1.ResourceCPU, *resource.NewMilliQuantity(cgroup.MilliOfShares(l.CpuShares), resource.DecimalSI))
	}
	return r
}

// replace puts what is in effect in place of what was asked for, if they differ.
func replace(l corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if have, ok := l[name]; ok && have.Cmp(q) != 0 {
		l[name] = q
	}
}
