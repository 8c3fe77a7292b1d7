package allocation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Config is what Services hands out, and where it notes that. All must be set.
type Config struct {
	Store     *objectstore.Store
	Addresses *objectstore.Collection // of IPAddresses
	Services  *objectstore.Collection
	Ranges    []netip.Prefix // of cluster IPs: one, or one of each family with the preferred one first
	Ports     Ports
	Clock     clock.Clock
	Logger    *zap.Logger
}

// Services reserves for services. It is a verbs.Reserver.
type Services struct {
	cfg       Config
	addresses *addresses
	ports     *ports
}

// New makes a Services.
func New(cfg Config) *Services {
	return &Services{
		cfg: cfg, addresses: &addresses{cfg.Addresses, cfg.Clock}, ports: &ports{cfg.Store.Collection(rangeKind()), cfg.Ports},
	}
}

// taken is what one write took.
type taken struct {
	ips   []string
	ports []int32
}

func hasIPs(s *corev1.Service) bool {
	return s != nil && s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// Reserve implements verbs.Reserver.
func (a *Services) Reserve(ctx context.Context, o, old kinds.Object, dryRun bool) (func(bool), error) {
	svc := o.(*corev1.Service)
	before, _ := old.(*corev1.Service)
	var t taken
	undo := func() { a.giveBack(context.WithoutCancel(ctx), svc, t) }
	if err := a.defaultFamilies(svc, before); err != nil {
		return nil, err
	}
	if dryRun {
		return func(bool) {}, nil
	}
	if err := a.reserveIPs(ctx, svc, before, &t); err != nil {
		undo()
		return nil, err
	}
	if err := a.reservePorts(ctx, svc, before, &t); err != nil {
		undo()
		return nil, err
	}
	return func(stored bool) {
		switch {
		case !stored:
			undo()
		case before != nil:
			a.giveBack(context.WithoutCancel(ctx), before, unused(before, svc))
		}
	}, nil
}

// Release implements verbs.Reserver.
func (a *Services) Release(ctx context.Context, o kinds.Object) {
	svc := o.(*corev1.Service)
	a.giveBack(context.WithoutCancel(ctx), svc, unused(svc, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}))
}

// giveBack gives back what a service does not have. What fails is left to Repair.
func (a *Services) giveBack(ctx context.Context, svc *corev1.Service, t taken) {
	var errs []error
	for _, ip := range t.ips {
		errs = append(errs, a.addresses.release(ctx, ip, svc))
	}
	errs = append(errs, a.ports.release(ctx, t.ports))
	if err := errors.Join(errs...); err != nil {
		a.cfg.Logger.Warn("what a service had could not be given back yet", zap.String("service", svc.Namespace+"/"+svc.Name), zap.Error(err))
	}
}

// unused is what a service had and has no more.
func unused(before, after *corev1.Service) (t taken) {
	if hasIPs(before) {
		for _, ip := range before.Spec.ClusterIPs {
			if !hasIPs(after) || !slices.Contains(after.Spec.ClusterIPs, ip) {
				t.ips = append(t.ips, ip)
			}
		}
	}
	keep := nodePorts(after)
	for _, p := range nodePorts(before) {
		if !slices.Contains(keep, p) {
			t.ports = append(t.ports, p)
		}
	}
	return t
}

func invalidService(svc *corev1.Service, err *field.Error) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, field.ErrorList{err})
}

// defaultFamilies says which families of addresses a service gets, if it does not say so.
func (a *Services) defaultFamilies(svc, old *corev1.Service) error {
	s := &svc.Spec
	if s.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if s.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(s.ClusterIPs) == 2 || len(s.IPFamilies) == 2 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		s.IPFamilyPolicy = ptr.To(policy)
	}
	if *s.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(a.cfg.Ranges) < 2 && len(s.Selector) > 0 {
		return invalidService(svc, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), *s.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	if len(s.IPFamilies) == 0 {
		for _, ip := range s.ClusterIPs {
			if addr, err := netip.ParseAddr(ip); err == nil {
				s.IPFamilies = append(s.IPFamilies, family(netip.PrefixFrom(addr, 0)))
			}
		}
	}
	want := 1
	if *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && (old == nil || *s.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack) {
		want = len(a.cfg.Ranges)
	}
	for _, r := range a.cfg.Ranges {
		if f := family(r); len(s.IPFamilies) < want && !slices.Contains(s.IPFamilies, f) {
			s.IPFamilies = append(s.IPFamilies, f)
		}
	}
	for i, f := range s.IPFamilies {
		if a.rangeOf(f) == nil && hasIPs(svc) {
			return invalidService(svc, field.Invalid(field.NewPath("spec", "ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return nil
}

func (a *Services) rangeOf(f corev1.IPFamily) *netip.Prefix {
	for i := range a.cfg.Ranges {
		if family(a.cfg.Ranges[i]) == f {
			return &a.cfg.Ranges[i]
		}
	}
	return nil
}

// reserveIPs takes the cluster IPs that a service asks for, and one of each family that it lacks.
func (a *Services) reserveIPs(ctx context.Context, svc, old *corev1.Service, t *taken) error {
	if !hasIPs(svc) {
		return nil
	}
	s := &svc.Spec
	var had []string
	if hasIPs(old) {
		had = old.Spec.ClusterIPs
	}
	if s.ClusterIP != "" && len(s.ClusterIPs) == 0 {
		s.ClusterIPs = []string{s.ClusterIP}
	}
	for i, ip := range s.ClusterIPs {
		if slices.Contains(had, ip) {
			continue
		}
		if err := a.reserveIP(ctx, svc, i, ip); err != nil {
			return err
		}
		t.ips = append(t.ips, ip)
	}
	for i := len(s.ClusterIPs); i < len(s.IPFamilies); i++ {
		ip, err := a.addresses.takeAny(ctx, *a.rangeOf(s.IPFamilies[i]), svc)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		t.ips = append(t.ips, ip.String())
		s.ClusterIPs = append(s.ClusterIPs, ip.String())
	}
	if len(s.ClusterIPs) > 0 {
		s.ClusterIP = s.ClusterIPs[0]
	}
	return nil
}

// reserveIP takes the address that a service asks for.
func (a *Services) reserveIP(ctx context.Context, svc *corev1.Service, i int, ip string) error {
	at := field.NewPath("spec", "clusterIPs").Index(i)
	fail := func(format string, args ...any) error {
		return invalidService(svc, field.Invalid(at, svc.Spec.ClusterIPs, "failed to allocate IP "+ip+": "+fmt.Sprintf(format, args...)))
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // validation tells
	}
	r := a.rangeOf(family(netip.PrefixFrom(addr, 0)))
	if r == nil || !usable(*r, addr) {
		return fail("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, a.cfg.Ranges[0])
	}
	switch err := a.addresses.take(ctx, addr, svc); {
	case apierrors.IsAlreadyExists(err):
		return fail("provided IP is already allocated")
	case err != nil:
		return err
	}
	return nil
}

// wantsPorts says whether the ports of a service get node ports.
func wantsPorts(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
	}
	return false
}

// nodePorts are the node ports that a service has, each once.
func nodePorts(s *corev1.Service) (out []int32) {
	if s == nil {
		return nil
	}
	add := func(p int32) {
		if p != 0 && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for i := range s.Spec.Ports {
		add(s.Spec.Ports[i].NodePort)
	}
	add(s.Spec.HealthCheckNodePort)
	return out
}

// reservePorts takes the node ports that a service asks for, and one for each port that lacks one. Ports of the same number
// and different protocols share theirs.
func (a *Services) reservePorts(ctx context.Context, svc, old *corev1.Service, t *taken) error {
	had := nodePorts(old)
	var wanted []int32
	var set []*int32
	for _, p := range nodePorts(svc) {
		if !slices.Contains(had, p) {
			wanted, set = append(wanted, p), append(set, nil)
		}
	}
	shared := map[int32]*int32{} // by port: where its node port is
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if p.NodePort == 0 && wantsPorts(svc) && shared[p.Port] == nil {
			wanted, set = append(wanted, 0), append(set, &p.NodePort)
		}
		if shared[p.Port] == nil {
			shared[p.Port] = &p.NodePort
		}
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && svc.Spec.HealthCheckNodePort == 0 {
		wanted, set = append(wanted, 0), append(set, &svc.Spec.HealthCheckNodePort)
	}
	if len(wanted) == 0 {
		return nil
	}
	got, err := a.ports.take(ctx, wanted)
	if err != nil {
		return portError(svc, wanted, err)
	}
	t.ports = got
	for i, p := range set {
		if p != nil {
			*p = got[i]
		}
	}
	for i := range svc.Spec.Ports {
		if p := &svc.Spec.Ports[i]; p.NodePort == 0 && wantsPorts(svc) {
			p.NodePort = *shared[p.Port]
		}
	}
	return nil
}

func portError(svc *corev1.Service, wanted []int32, err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	if errors.Is(err, errPortsFull) {
		return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
	}
	for i := range svc.Spec.Ports {
		if p := svc.Spec.Ports[i].NodePort; p != 0 && slices.Contains(wanted, p) {
			return invalidService(svc, field.Invalid(field.NewPath("spec", "ports").Index(i).Child("nodePort"), p, err.Error()))
		}
	}
	return invalidService(svc, field.Invalid(field.NewPath("spec", "healthCheckNodePort"), svc.Spec.HealthCheckNodePort, err.Error()))
}
