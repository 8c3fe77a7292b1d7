package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	helpers "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// Driver is who makes cgroups.
type Driver string

// The drivers: directories made by ourselves, or slices made by systemd.
const (
	Cgroupfs Driver = "cgroupfs"
	Systemd  Driver = "systemd"
)

// Config says where the tree is and what is in it.
type Config struct {
	Driver Driver // cgroupfs
	Root   string // the cgroup that the tree is in, with Cgroupfs; "/"
	Name   string // of the tree; kubepods
	// Limits are what all pods together get; a resource that is not in it is not limited.
	Limits         corev1.ResourceList
	MemoryCapacity int64 // of the node, bytes
	PodPids        int64 // processes of one pod; 0: no limit
	// ProtectMemory keeps the memory that pods request from being reclaimed, where the kernel can (version 2).
	ProtectMemory bool
	Logger        *zap.Logger
}

// Tree is the tree of a node.
type Tree struct {
	cfg   Config
	log   *zap.Logger
	v2    bool
	swap  bool // the kernel counts swap
	sizes []string

	mu   sync.Mutex
	pods map[types.UID]member
}

// member is what a pod adds to its class.
type member struct {
	class  corev1.PodQOSClass
	cpu    int64 // requested, thousandths
	memory int64 // requested, bytes
}

// New makes the tree, or takes up the one that is there.
func New(cfg Config) (*Tree, error) {
	t, err := open(cfg)
	if err != nil {
		return nil, err
	}
	if err := t.make(); err != nil {
		return nil, err
	}
	return t, nil
}

// Wipe kills all that is in the tree and removes it. It is no error if there is none.
func Wipe(cfg Config) error {
	t, err := open(cfg)
	if err != nil {
		return err
	}
	if err := t.Destroy(); err != nil {
		return fmt.Errorf("cgroup: the tree %s: %w", t.cfg.Name, err)
	}
	return nil
}

// open is a handle on the tree, which need not be there.
func open(cfg Config) (*Tree, error) {
	if cfg.Driver == "" {
		cfg.Driver = Cgroupfs
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Name == "" {
		cfg.Name = "kubepods"
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Driver != Cgroupfs && cfg.Driver != Systemd {
		return nil, fmt.Errorf("cgroup: unknown driver %q: it has to be %s or %s", cfg.Driver, Cgroupfs, Systemd)
	}
	return &Tree{cfg: cfg, log: cfg.Logger, v2: cgroups.IsCgroup2UnifiedMode(), pods: map[types.UID]member{}}, nil
}

// make makes the tree without its pods.
func (t *Tree) make() error {
	top := &cgroups.Resources{
		CpuShares: uint64(Shares(t.cfg.Limits.Cpu().MilliValue())), Memory: t.cfg.Limits.Memory().Value(),
	}
	if n, ok := t.cfg.Limits["pids"]; ok {
		top.PidsLimit = ptr.To(n.Value())
	}
	if t.cfg.Limits.Cpu().IsZero() {
		top.CpuShares = 0
	}
	m, err := t.ensure(t.node(""))
	if err != nil {
		return fmt.Errorf("cgroup: the tree of pods cannot be made: %w", err)
	}
	memory := m.Path("memory")
	t.swap = memory != "" && cgroups.PathExists(filepath.Join(memory, "memory.memsw.limit_in_bytes"))
	if t.v2 {
		t.swap = cgroups.PathExists(filepath.Join(m.Path(""), "memory.swap.max"))
	}
	if t.v2 && cgroups.PathExists(filepath.Join(m.Path(""), "hugetlb.2MB.max")) || !t.v2 && m.Path("hugetlb") != "" {
		t.sizes = cgroups.HugePageSizes()
	}
	t.set(m, t.node(""), top)
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		m, err := t.ensure(t.node(class))
		if err != nil {
			return fmt.Errorf("cgroup: the tree of pods cannot be made: %w", err)
		}
		t.set(m, t.node(class), &cgroups.Resources{CpuShares: minShares})
	}
	return nil
}

// node is the place of a class of pods in the tree, as names from the top.
func (t *Tree) node(class corev1.PodQOSClass) []string {
	switch class {
	case corev1.PodQOSBurstable, corev1.PodQOSBestEffort:
		return []string{t.cfg.Name, strings.ToLower(string(class))}
	}
	return []string{t.cfg.Name}
}

func (t *Tree) podNode(uid types.UID, class corev1.PodQOSClass) []string {
	return append(t.node(class), "pod"+string(uid))
}

// slice is a node as systemd names it: every slice carries the names of those that it is in.
func slice(node []string) string {
	escaped := make([]string, len(node))
	for i, n := range node {
		escaped[i] = strings.ReplaceAll(n, "-", "_")
	}
	return strings.Join(escaped, "-") + ".slice"
}

// parent is a node as the runtime is told it.
func (t *Tree) parent(node []string) string {
	if t.cfg.Driver == Systemd {
		return slice(node)
	}
	return path.Join(append([]string{"/", t.cfg.Root}, node...)...)
}

// manager is a handle on a node of the tree.
func (t *Tree) manager(node []string) (cgroups.Manager, error) {
	c := &cgroups.Cgroup{Resources: &cgroups.Resources{SkipDevices: true, SkipFreezeOnSet: true}}
	if t.cfg.Driver == Systemd {
		c.Systemd, c.Name, c.Parent = true, slice(node), "-.slice"
		if len(node) > 1 {
			c.Parent = slice(node[:len(node)-1])
		}
	} else {
		c.Path = t.parent(node)
	}
	return manager.New(c)
}

// ensure makes a node.
func (t *Tree) ensure(node []string) (cgroups.Manager, error) {
	m, err := t.manager(node)
	if err != nil {
		return nil, err
	}
	return m, m.Apply(-1)
}

// set gives a node its limits. What the kernel does not take is logged: a limit that is missing is better than a pod that is.
func (t *Tree) set(m cgroups.Manager, node []string, r *cgroups.Resources) {
	r.SkipDevices, r.SkipFreezeOnSet = true, true
	if t.v2 && r.CpuShares != 0 {
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CpuShares)
	}
	if err := m.Set(r); err != nil {
		t.log.Warn("limits of a cgroup are not taken", zap.String("cgroup", t.parent(node)), zap.Error(err))
	}
}

// Ensure makes the pod's cgroup with its limits, and returns the parent for its sandbox.
func (t *Tree) Ensure(p *corev1.Pod) (string, error) {
	class := QOS(p)
	node := t.podNode(p.UID, class)
	m, err := t.ensure(node)
	if err != nil {
		return "", fmt.Errorf("cgroup: of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	t.limit(m, node, p)
	return t.parent(node), nil
}

// Update gives the pod's cgroup the limits that follow from its spec as it is now.
func (t *Tree) Update(p *corev1.Pod) error {
	node := t.podNode(p.UID, QOS(p))
	m, err := t.manager(node)
	if err != nil {
		return fmt.Errorf("cgroup: of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	if err := m.Set(t.podLimits(p)); err != nil {
		return fmt.Errorf("cgroup: of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	t.count(p)
	return nil
}

func (t *Tree) limit(m cgroups.Manager, node []string, p *corev1.Pod) {
	t.set(m, node, t.podLimits(p))
	t.count(p)
}

// podLimits are the limits of a pod as a whole.
func (t *Tree) podLimits(p *corev1.Pod) *cgroups.Resources {
	r := podResources(p, false)
	c := &cgroups.Resources{
		SkipDevices: true, SkipFreezeOnSet: true, CpuShares: uint64(r.CpuShares), CpuQuota: r.CpuQuota, CpuPeriod: uint64(r.CpuPeriod), Memory: r.MemoryLimitInBytes,
	}
	if c.CpuQuota == 0 { // a limit that went away
		c.CpuQuota = -1
	}
	if c.Memory == 0 {
		c.Memory = -1
	}
	if t.v2 {
		c.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(c.CpuShares)
		requests := helpers.PodRequests(p, helpers.PodResourcesOptions{})
		c.Unified = t.protection(QOS(p), requests.Memory().Value())
	}
	if t.cfg.PodPids > 0 {
		c.PidsLimit = ptr.To(t.cfg.PodPids)
	}
	huge := hugepages(helpers.PodLimits(p, helpers.PodResourcesOptions{}))
	for _, size := range t.sizes {
		c.HugetlbLimit = append(c.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: size, Limit: huge[size]})
	}
	return c
}

// protection is what keeps requested memory: entirely for Guaranteed pods, as long as there is any other for Burstable ones.
func (t *Tree) protection(class corev1.PodQOSClass, requested int64) map[string]string {
	if !t.cfg.ProtectMemory || !t.v2 || requested == 0 {
		return nil
	}
	if class == corev1.PodQOSGuaranteed {
		return map[string]string{"memory.min": fmt.Sprint(requested)}
	}
	return map[string]string{"memory.low": fmt.Sprint(requested)}
}

// count keeps the sums over pods on the nodes above them.
func (t *Tree) count(p *corev1.Pod) {
	requests := helpers.PodRequests(p, helpers.PodResourcesOptions{})
	t.mu.Lock()
	defer t.mu.Unlock()
	m := member{class: QOS(p), cpu: requests.Cpu().MilliValue(), memory: requests.Memory().Value()}
	if t.pods[p.UID] == m {
		return
	}
	t.pods[p.UID] = m
	t.sum()
}

// sum sets what follows from the sums. The caller holds mu.
func (t *Tree) sum() {
	var cpu, low, all int64
	for _, m := range t.pods {
		all += m.memory
		if m.class == corev1.PodQOSBurstable {
			cpu, low = cpu+m.cpu, low+m.memory
		}
	}
	t.apply(t.node(corev1.PodQOSBurstable), &cgroups.Resources{CpuShares: uint64(Shares(cpu)), Unified: t.protection(corev1.PodQOSBurstable, low)})
	if top := t.protection(corev1.PodQOSGuaranteed, all); top != nil {
		t.apply(t.node(""), &cgroups.Resources{Unified: top})
	}
}

func (t *Tree) apply(node []string, r *cgroups.Resources) {
	m, err := t.manager(node)
	if err != nil {
		t.log.Warn("limits of a cgroup are not taken", zap.String("cgroup", t.parent(node)), zap.Error(err))
		return
	}
	t.set(m, node, r)
}

// Resources are what a container gets.
func (t *Tree) Resources(p *corev1.Pod, c *corev1.Container) *runtimeapi.LinuxContainerResources {
	limits := c.Resources.Limits
	r := Resources(c.Resources.Requests, limits)
	if pod := p.Spec.Resources; pod != nil { // what the pod has as a whole bounds those that say nothing
		limits = bounded(limits, pod.Limits)
		r = Resources(c.Resources.Requests, limits)
	}
	r.OomScoreAdj = Score(p, c, t.cfg.MemoryCapacity)
	if t.swap {
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes // no swap on top
	}
	huge := hugepages(c.Resources.Limits)
	for _, size := range t.sizes {
		r.HugepageLimits = append(r.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size, Limit: huge[size]})
	}
	if t.v2 {
		r.Unified = map[string]string{"memory.oom.group": "1"}
		for k, v := range t.protection(QOS(p), c.Resources.Requests.Memory().Value()) {
			r.Unified[k] = v
		}
	}
	return r
}

// bounded are limits with those of the pod where the container has none.
func bounded(own, pod corev1.ResourceList) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if q, ok := pod[name]; ok {
			l[name] = q
		}
	}
	for k, v := range own {
		l[k] = v
	}
	return l
}

// Remove kills what is left in a pod's cgroup and removes it. It is no error if there is none.
func (t *Tree) Remove(uid types.UID) error {
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		if err := t.remove(t.podNode(uid, class)); err != nil {
			return fmt.Errorf("cgroup: of pod %s: %w", uid, err)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.pods[uid]; ok {
		delete(t.pods, uid)
		t.sum()
	}
	return nil
}

// killTries bounds how often the processes of a cgroup are killed anew: it may be forking.
const killTries = 5

func (t *Tree) remove(node []string) error {
	m, err := t.manager(node)
	if err != nil {
		return err
	}
	there := false
	for _, dir := range m.GetPaths() {
		there = there || cgroups.PathExists(dir)
	}
	if !there {
		return nil
	}
	for try := range killTries {
		var left bool
		for _, dir := range m.GetPaths() {
			pids, err := cgroups.GetAllPids(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			for _, pid := range pids {
				left = true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return err
				}
			}
		}
		if !left {
			break
		}
		time.Sleep(time.Duration(try+1) * 10 * time.Millisecond) // they have to be gone before the directory can be
	}
	return m.Destroy()
}

// Orphans are the pods that have a cgroup and are not known.
func (t *Tree) Orphans(known func(types.UID) bool) ([]types.UID, error) {
	found := map[types.UID]bool{}
	for _, class := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		m, err := t.manager(t.node(class))
		if err != nil {
			return nil, fmt.Errorf("cgroup: %w", err)
		}
		for _, dir := range m.GetPaths() {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("cgroup: %w", err)
			}
			for _, e := range entries {
				if uid, ok := t.podOf(e.Name(), class); e.IsDir() && ok && !known(uid) {
					found[uid] = true
				}
			}
		}
	}
	uids := make([]types.UID, 0, len(found))
	for uid := range found {
		uids = append(uids, uid)
	}
	slices.Sort(uids)
	return uids, nil
}

// podOf is the pod whose cgroup has a name.
func (t *Tree) podOf(name string, class corev1.PodQOSClass) (types.UID, bool) {
	if t.cfg.Driver == Systemd {
		prefix := strings.TrimSuffix(slice(t.node(class)), ".slice") + "-pod"
		rest, ok := strings.CutPrefix(name, prefix)
		rest, ok2 := strings.CutSuffix(rest, ".slice")
		return types.UID(strings.ReplaceAll(rest, "_", "-")), ok && ok2 && rest != ""
	}
	rest, ok := strings.CutPrefix(name, "pod")
	return types.UID(rest), ok && rest != ""
}

// Destroy removes the whole tree. It is for tests and for a node that is taken out of service.
func (t *Tree) Destroy() error { return t.remove(t.node("")) }
