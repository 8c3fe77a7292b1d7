package framework

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	helper "k8s.io/component-helpers/resource"
	corehelper "k8s.io/component-helpers/scheduling/corev1"
)

const (
	// DefaultMilliCPU is what a container without a CPU request counts in scores.
	DefaultMilliCPU int64 = 100
	// DefaultMemory is what a container without a memory request counts in scores.
	DefaultMemory int64 = 200 * 1024 * 1024
)

// Term is a parsed affinity term. Terms with equal keys select the same pods in the same domains.
type Term struct {
	Namespaces        []string
	Selector          labels.Selector
	NamespaceSelector labels.Selector
	TopologyKey       string
	Weight            int32
	key               string
}

// Matches tells whether the term selects pods of a namespace (whose labels are nsLabels) with the labels.
func (t *Term) Matches(namespace string, podLabels, nsLabels labels.Set) bool {
	return t.MatchesNamespace(namespace, nsLabels) && t.Selector.Matches(podLabels)
}

// MatchesNamespace tells whether the term looks into a namespace.
func (t *Term) MatchesNamespace(namespace string, nsLabels labels.Set) bool {
	return slices.Contains(t.Namespaces, namespace) || t.NamespaceSelector.Matches(nsLabels)
}

// Terms are the affinity terms of a pod.
type Terms struct {
	RequiredAffinity      []Term
	RequiredAntiAffinity  []Term
	PreferredAffinity     []Term
	PreferredAntiAffinity []Term
}

// HostPort is a port of the node that a pod wants for itself.
type HostPort struct {
	IP       string
	Protocol v1.Protocol
	Port     int32
}

// Conflicts tells whether two pods cannot have both ports on one node.
func (h HostPort) Conflicts(o HostPort) bool {
	return h.Port == o.Port && h.Protocol == o.Protocol && (h.IP == o.IP || h.IP == anyAddress || o.IP == anyAddress)
}

const anyAddress = "0.0.0.0"

// PodInfo is a pod with what the scheduler needs of it, worked out once. It does not change.
type PodInfo struct {
	Pod      *v1.Pod
	Terms    Terms
	Requests Resources
	// NonZeroCPU and NonZeroMemory count a default for containers without a request.
	NonZeroCPU    int64
	NonZeroMemory int64
	// Ports are the host ports that the pod takes.
	Ports    []HostPort
	Priority int32
	// Err says why the affinity terms could not be read; they are empty then.
	Err   error
	class string
}

// NewPodInfo works out what the scheduler needs of a pod. The pod must not change afterwards.
func NewPodInfo(pod *v1.Pod) *PodInfo {
	p := &PodInfo{Pod: pod, Priority: corehelper.PodPriority(pod), Ports: hostPorts(pod), class: classKey(pod)}
	p.setRequests()
	p.Err = p.setTerms()
	if p.Err != nil {
		p.Terms = Terms{}
	}
	return p
}

// UID is the pod's identity.
func (p *PodInfo) UID() types.UID { return p.Pod.UID }

// Name is namespace/name.
func (p *PodInfo) Name() string { return p.Pod.Namespace + "/" + p.Pod.Name }

// HasAffinity tells whether the pod has affinity or anti-affinity to pods.
func (p *PodInfo) HasAffinity() bool {
	t := &p.Terms
	return len(t.RequiredAffinity)+len(t.RequiredAntiAffinity)+len(t.PreferredAffinity)+len(t.PreferredAntiAffinity) > 0
}

func (p *PodInfo) setRequests() {
	options := helper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	requests := helper.PodRequests(p.Pod, options)
	p.Requests = NewResources(requests)
	p.Requests.Pods = 0
	podLevel := helper.IsPodLevelRequestsSet(p.Pod)
	defaults := v1.ResourceList{}
	if _, ok := requests[v1.ResourceCPU]; !ok || !podLevel {
		defaults[v1.ResourceCPU] = *resource.NewMilliQuantity(DefaultMilliCPU, resource.DecimalSI)
	}
	if _, ok := requests[v1.ResourceMemory]; !ok || !podLevel {
		defaults[v1.ResourceMemory] = *resource.NewQuantity(DefaultMemory, resource.DecimalSI)
	}
	if len(defaults) > 0 && !complete(p.Pod) {
		options.NonMissingContainerRequests = defaults
		requests = helper.PodRequests(p.Pod, options)
	}
	cpu, memory := requests[v1.ResourceCPU], requests[v1.ResourceMemory]
	p.NonZeroCPU, p.NonZeroMemory = cpu.MilliValue(), memory.Value()
}

// complete says that every container requests processor time and memory, and that nothing else is said of a pod's resources,
// so that defaults change nothing.
func complete(p *v1.Pod) bool {
	other := func(s v1.ContainerStatus) bool { return s.Resources != nil || s.AllocatedResources != nil }
	if p.Spec.Resources != nil || slices.ContainsFunc(p.Status.InitContainerStatuses, other) || slices.ContainsFunc(p.Status.ContainerStatuses, other) {
		return false
	}
	asks := func(c *v1.Container) bool {
		_, cpu := c.Resources.Requests[v1.ResourceCPU]
		_, memory := c.Resources.Requests[v1.ResourceMemory]
		return cpu && memory
	}
	for i := range p.Spec.InitContainers {
		if !asks(&p.Spec.InitContainers[i]) {
			return false
		}
	}
	for i := range p.Spec.Containers {
		if !asks(&p.Spec.Containers[i]) {
			return false
		}
	}
	return true
}

func (p *PodInfo) setTerms() error {
	a := p.Pod.Spec.Affinity
	if a == nil {
		return nil
	}
	var err error
	if pa := a.PodAffinity; pa != nil {
		if p.Terms.RequiredAffinity, err = newTerms(p.Pod, pa.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("requiredAffinityTerms: %w", err)
		}
		if p.Terms.PreferredAffinity, err = newWeightedTerms(p.Pod, pa.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("preferredAffinityTerms: %w", err)
		}
	}
	if pa := a.PodAntiAffinity; pa != nil {
		if p.Terms.RequiredAntiAffinity, err = newTerms(p.Pod, pa.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("requiredAntiAffinityTerms: %w", err)
		}
		if p.Terms.PreferredAntiAffinity, err = newWeightedTerms(p.Pod, pa.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
			return fmt.Errorf("preferredAntiAffinityTerms: %w", err)
		}
	}
	return nil
}

func newTerms(pod *v1.Pod, in []v1.PodAffinityTerm) ([]Term, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]Term, len(in))
	for i := range in {
		t, err := newTerm(pod, &in[i], 0)
		if err != nil {
			return nil, err
		}
		out[i] = t
	}
	return out, nil
}

func newWeightedTerms(pod *v1.Pod, in []v1.WeightedPodAffinityTerm) ([]Term, error) {
	var out []Term
	for i := range in {
		t, err := newTerm(pod, &in[i].PodAffinityTerm, in[i].Weight)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func newTerm(pod *v1.Pod, in *v1.PodAffinityTerm, weight int32) (Term, error) {
	selector, err := metav1.LabelSelectorAsSelector(in.LabelSelector)
	if err != nil {
		return Term{}, err
	}
	nsSelector, err := metav1.LabelSelectorAsSelector(in.NamespaceSelector)
	if err != nil {
		return Term{}, err
	}
	namespaces := slices.Clone(in.Namespaces)
	if len(namespaces) == 0 && in.NamespaceSelector == nil {
		namespaces = []string{pod.Namespace}
	}
	slices.Sort(namespaces)
	t := Term{Namespaces: slices.Compact(namespaces), Selector: selector, NamespaceSelector: nsSelector, TopologyKey: in.TopologyKey, Weight: weight}
	t.key = strings.Join([]string{
		strconv.Itoa(int(weight)), t.TopologyKey, selectorKey(selector), selectorKey(nsSelector), strings.Join(t.Namespaces, ","),
	}, "\x00")
	return t, nil
}

// selectorKey tells selectors apart; that of nothing and that of everything both print as "".
func selectorKey(s labels.Selector) string {
	if s.String() != "" {
		return s.String()
	}
	if s.Empty() {
		return "*"
	}
	return "!"
}

// classKey is equal for pods of one namespace with equal labels. Those that are being deleted are a class of their own.
func classKey(pod *v1.Pod) string {
	var b strings.Builder
	if pod.DeletionTimestamp != nil {
		b.WriteByte('-')
	}
	b.WriteString(pod.Namespace)
	keys := make([]string, 0, len(pod.Labels))
	for k := range pod.Labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		b.WriteByte(0)
		b.WriteString(k)
		b.WriteByte('=')
		b.WriteString(pod.Labels[k])
	}
	return b.String()
}

func hostPorts(pod *v1.Pod) []HostPort {
	var out []HostPort
	add := func(ports []v1.ContainerPort) {
		for i := range ports {
			p := &ports[i]
			if p.HostPort <= 0 {
				continue
			}
			h := HostPort{IP: p.HostIP, Protocol: p.Protocol, Port: p.HostPort}
			if h.IP == "" {
				h.IP = anyAddress
			}
			if h.Protocol == "" {
				h.Protocol = v1.ProtocolTCP
			}
			if !slices.Contains(out, h) {
				out = append(out, h)
			}
		}
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Ports)
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c.Ports)
		}
	}
	return out
}
