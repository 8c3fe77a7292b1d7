package kinds

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (p *podCheck) probes(c *corev1.Container, at *field.Path) {
	once := func(probe *corev1.Probe, at *field.Path) {
		if probe != nil && probe.SuccessThreshold != 1 {
			p.invalid(at.Child("successThreshold"), probe.SuccessThreshold, "must be 1")
		}
	}
	p.probe(c.LivenessProbe, at.Child("livenessProbe"))
	once(c.LivenessProbe, at.Child("livenessProbe"))
	p.probe(c.ReadinessProbe, at.Child("readinessProbe"))
	if r := c.ReadinessProbe; r != nil && r.TerminationGracePeriodSeconds != nil {
		p.invalid(at.Child("readinessProbe", "terminationGracePeriodSeconds"), r.TerminationGracePeriodSeconds, "must not be set for readinessProbes")
	}
	p.probe(c.StartupProbe, at.Child("startupProbe"))
	once(c.StartupProbe, at.Child("startupProbe"))
}

func (p *podCheck) probe(probe *corev1.Probe, at *field.Path) {
	if probe == nil {
		return
	}
	h := &probe.ProbeHandler
	p.handler(handler{Exec: h.Exec, HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket, GRPC: h.GRPC}, at)
	p.notNegative(at.Child("initialDelaySeconds"), int64(probe.InitialDelaySeconds))
	p.notNegative(at.Child("timeoutSeconds"), int64(probe.TimeoutSeconds))
	p.notNegative(at.Child("periodSeconds"), int64(probe.PeriodSeconds))
	p.notNegative(at.Child("successThreshold"), int64(probe.SuccessThreshold))
	p.notNegative(at.Child("failureThreshold"), int64(probe.FailureThreshold))
	if s := probe.TerminationGracePeriodSeconds; s != nil && *s <= 0 {
		p.invalid(at.Child("terminationGracePeriodSeconds"), *s, "must be greater than 0")
	}
}

func (p *podCheck) lifecycle(l *corev1.Lifecycle, at *field.Path) {
	if l == nil {
		return
	}
	check := func(h *corev1.LifecycleHandler, at *field.Path) {
		if h != nil {
			p.handler(handler{Exec: h.Exec, HTTPGet: h.HTTPGet, TCPSocket: h.TCPSocket, Sleep: h.Sleep}, at)
		}
	}
	check(l.PostStart, at.Child("postStart"))
	check(l.PreStop, at.Child("preStop"))
}

// handler is what a probe or a hook does: one of these.
type handler struct {
	Exec      *corev1.ExecAction
	HTTPGet   *corev1.HTTPGetAction
	TCPSocket *corev1.TCPSocketAction
	GRPC      *corev1.GRPCAction
	Sleep     *corev1.SleepAction
}

func (p *podCheck) handler(h handler, at *field.Path) {
	found := false
	for _, c := range []struct {
		name  string
		set   bool
		check func(at *field.Path)
	}{
		{"exec", h.Exec != nil, func(at *field.Path) {
			if len(h.Exec.Command) == 0 {
				p.required(at.Child("command"), "")
			}
		}},
		{"httpGet", h.HTTPGet != nil, func(at *field.Path) { p.httpGet(h.HTTPGet, at) }},
		{"tcpSocket", h.TCPSocket != nil, func(at *field.Path) { p.port(h.TCPSocket.Port, at.Child("port")) }},
		{"grpc", h.GRPC != nil, func(at *field.Path) { p.port(intstr.FromInt32(h.GRPC.Port), at.Child("port")) }},
		{"sleep", h.Sleep != nil, func(at *field.Path) { p.sleep(h.Sleep, at) }},
	} {
		switch {
		case !c.set:
		case found:
			p.forbidden(at.Child(c.name), "may not specify more than 1 handler type")
		default:
			found = true
			c.check(at.Child(c.name))
		}
	}
	if !found {
		p.required(at, "must specify a handler type")
	}
}

func (p *podCheck) httpGet(g *corev1.HTTPGetAction, at *field.Path) {
	p.have(at.Child("path"), g.Path)
	p.port(g.Port, at.Child("port"))
	oneOf(&p.problems, at.Child("scheme"), g.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for _, h := range g.HTTPHeaders {
		p.each(at.Child("httpHeaders"), h.Name, utilvalidation.IsHTTPHeaderName(h.Name))
	}
}

// port checks a port's number or name.
func (p *podCheck) port(port intstr.IntOrString, at *field.Path) {
	switch port.Type {
	case intstr.Int:
		p.each(at, port.IntValue(), utilvalidation.IsValidPortNum(port.IntValue()))
	case intstr.String:
		p.each(at, port.StrVal, utilvalidation.IsValidPortName(port.StrVal))
	default:
		p.add(field.InternalError(at, fmt.Errorf("unknown type: %v", port.Type)))
	}
}

func (p *podCheck) sleep(s *corev1.SleepAction, at *field.Path) {
	if grace := p.spec.TerminationGracePeriodSeconds; grace != nil && (s.Seconds < 0 || s.Seconds > *grace) {
		p.invalid(at, s.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))
	}
}
