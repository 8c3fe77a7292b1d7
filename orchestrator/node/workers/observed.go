package workers

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sandbox is a pod sandbox as the runtime has it.
type sandbox struct {
	id      string
	attempt uint32
	ready   bool
	created time.Time
	ips     []string
	host    bool // it is in the network of the node
	handler string
}

// container is a container as the runtime has it.
type container struct {
	id      string
	name    string
	sandbox string // its ID
	attempt int32  // how often the container was restarted before this one
	round   int
	state   runtimeapi.ContainerState
	hash    string
	backOff time.Duration // what the next restart waits after the end
	status  *runtimeapi.ContainerStatus
	said    *string // its message, once it has ended and somebody has looked
}

func (c *container) running() bool {
	return c.state == runtimeapi.ContainerState_CONTAINER_RUNNING
}
func (c *container) exited() bool {
	return c.state == runtimeapi.ContainerState_CONTAINER_EXITED
}

// over is whether the container does not run and never will.
func (c *container) over() bool { return c.exited() }

func (c *container) succeeded() bool { return c.exited() && c.status.ExitCode == 0 }

func (c *container) created() time.Time  { return time.Unix(0, c.status.CreatedAt) }
func (c *container) started() time.Time  { return time.Unix(0, c.status.StartedAt) }
func (c *container) finished() time.Time { return time.Unix(0, c.status.FinishedAt) }

// observed is all that the runtime has of a pod.
type observed struct {
	sandboxes  []*sandbox              // the newest first
	containers map[string][]*container // by name, the newest first
}

// newest is the newest container of a name, nil if there is none.
func (o *observed) newest(name string) *container {
	if l := o.containers[name]; len(l) > 0 {
		return l[0]
	}
	return nil
}

// sandbox is the newest sandbox if it is ready, else nil.
func (o *observed) sandbox() *sandbox {
	if len(o.sandboxes) == 0 || !o.sandboxes[0].ready {
		return nil
	}
	return o.sandboxes[0]
}

// each calls f for every container of the pod.
func (o *observed) each(f func(*container)) {
	for _, l := range o.containers {
		for _, c := range l {
			f(c)
		}
	}
}

// alive is whether any container runs, or may.
func (o *observed) alive() (alive bool) {
	o.each(func(c *container) { alive = alive || !c.over() })
	return alive
}

// round is the number of times that all containers were restarted together.
func (o *observed) round() (r int) {
	o.each(func(c *container) { r = max(r, c.round) })
	return r
}

func (o *observed) sort() {
	slices.SortFunc(o.sandboxes, func(a, b *sandbox) int {
		return cmp.Or(cmp.Compare(b.attempt, a.attempt), b.created.Compare(a.created), cmp.Compare(a.id, b.id))
	})
	for _, l := range o.containers {
		slices.SortFunc(l, func(a, b *container) int {
			return cmp.Or(cmp.Compare(b.attempt, a.attempt), cmp.Compare(b.status.CreatedAt, a.status.CreatedAt), cmp.Compare(a.id, b.id))
		})
	}
}

func newSandbox(s *runtimeapi.PodSandboxStatus) *sandbox {
	sb := &sandbox{
		id: s.Id, attempt: s.GetMetadata().GetAttempt(), ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY, created: time.Unix(0, s.CreatedAt),
		host:    s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE,
		handler: s.RuntimeHandler,
	}
	if ip := s.GetNetwork().GetIp(); ip != "" {
		sb.ips = append(sb.ips, ip)
	}
	for _, a := range s.GetNetwork().GetAdditionalIps() {
		sb.ips = append(sb.ips, a.Ip)
	}
	return sb
}

func newContainer(s *runtimeapi.ContainerStatus, sandbox string) *container {
	c := &container{
		id: s.Id, sandbox: sandbox, state: s.State, status: s,
		name: s.Labels[labelContainer], attempt: int32(parseInt(s.Annotations[annotationRestarts])), round: parseInt(s.Annotations[annotationRound]),
		hash: s.Annotations[annotationHash], backOff: parseDuration(s.Annotations[annotationBackOff]),
	}
	if c.name == "" {
		c.name = s.GetMetadata().GetName()
	}
	return c
}

// specOf is the container of a name in a pod's spec, of any kind; nil if there is none.
func specOf(p *corev1.Pod, name string) *corev1.Container {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return &p.Spec.InitContainers[i]
		}
	}
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Name == name {
			return &p.Spec.Containers[i]
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return (*corev1.Container)(&p.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		}
	}
	return nil
}

func sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
