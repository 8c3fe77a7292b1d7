// Package advertise keeps the endpoints of the service kubernetes: the addresses of all API servers that are alive.
//
// # Model
//
// Every API server holds an object, named after its address and stored below masterleases as kube-apiserver does it, that goes
// 15 seconds after its last renewal. Every ten seconds each server renews its own and writes the addresses of all into the
// Endpoints and the EndpointSlice of the service, if they are not there. One that ends in order takes its own away; the last
// one leaves what there is, since nobody would be helped by a service without endpoints.
//
// All servers of a cluster listen on the same port: that of whoever wrote last is written.
//
// # Concurrency
//
// A Server is run once.
package advertise

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

const (
	renewEvery = 10 * time.Second
	life       = 15 * time.Second
	// leaveTime bounds what a server does when it ends.
	leaveTime = 2 * time.Second
)

// name is that of the service, its Endpoints and its EndpointSlice, in the namespace default.
const name = "kubernetes"

// Config says who is advertised.
type Config struct {
	Store *objectstore.Store
	// Address and Port are where pods reach this server.
	Address netip.Addr
	Port    int32
	// Write creates an object, or has set change the one that there is and stores it if set says that it did.
	Write  func(ctx context.Context, o kinds.Object, set func(existing kinds.Object) bool) error
	Clock  clock.Clock
	Logger *zap.Logger
}

// Server is this API server, as others see it.
type Server struct {
	cfg   Config
	alive *objectstore.Collection
}

// New returns a Server.
func New(cfg Config) *Server { return &Server{cfg: cfg, alive: cfg.Store.Collection(leaseKind())} }

// leaseKind is a kind that is stored and not served.
func leaseKind() *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("Endpoints"), Resource: "masterleases", Place: "masterleases",
		New: func() kinds.Object { return &corev1.Endpoints{} }, NewList: func() runtime.Object { return nil },
		Lifecycle: kinds.Lifecycle{TTL: life},
	}
}

// Run advertises the server until the context ends.
func (s *Server) Run(ctx context.Context) {
	t := s.cfg.Clock.NewTicker(renewEvery)
	defer t.Stop()
	for {
		if err := s.step(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("the server could not be advertised", zap.Error(err))
		}
		select {
		case <-t.C():
		case <-ctx.Done():
			leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTime)
			defer cancel()
			if err := s.leave(leaving); err != nil {
				s.cfg.Logger.Warn("the server is advertised though it ends", zap.Error(err))
			}
			return
		}
	}
}

func (s *Server) step(ctx context.Context) error {
	if err := s.renew(ctx); err != nil {
		return err
	}
	return s.publish(ctx)
}

// renew makes the server's object live on. Every write has a change, or it would not be one.
func (s *Server) renew(ctx context.Context) error {
	ip := s.cfg.Address.String()
	_, err := s.alive.Update(ctx, "", ip, func(current *objectstore.Item) (kinds.Object, error) {
		e := current.Object.(*corev1.Endpoints).DeepCopy()
		e.Generation++
		return e, nil
	})
	if !apierrors.IsNotFound(err) {
		return err
	}
	_, err = s.alive.Create(ctx, &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: ip, Generation: 1},
		Subsets:    []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: ip}}}},
	})
	return err
}

func (s *Server) leave(ctx context.Context) error {
	_, err := s.alive.Delete(ctx, "", s.cfg.Address.String(), func(*objectstore.Item) error { return nil })
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return s.publish(ctx)
}

// publish writes the addresses of all servers where they are not written yet.
func (s *Server) publish(ctx context.Context) error {
	all, err := s.addresses(ctx)
	if err != nil || len(all) == 0 {
		return err
	}
	e := endpoints(all, s.cfg.Port)
	if err := s.cfg.Write(ctx, e, func(o kinds.Object) bool {
		have := o.(*corev1.Endpoints)
		if equality.Semantic.DeepEqual(have.Subsets, e.Subsets) && have.Labels[discoveryv1.LabelSkipMirror] == "true" {
			return false
		}
		have.Subsets = e.Subsets
		metav1.SetMetaDataLabel(&have.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
		return true
	}); err != nil {
		return err
	}
	slice := endpointSlice(all, s.cfg.Port)
	return s.cfg.Write(ctx, slice, func(o kinds.Object) bool {
		have := o.(*discoveryv1.EndpointSlice)
		if equality.Semantic.DeepEqual(have.Endpoints, slice.Endpoints) && equality.Semantic.DeepEqual(have.Ports, slice.Ports) {
			return false
		}
		have.Endpoints, have.Ports = slice.Endpoints, slice.Ports
		return true
	})
}

// addresses are those of all servers, in order, of the family of this one's.
func (s *Server) addresses(ctx context.Context) (out []netip.Addr, err error) {
	page, err := s.alive.List(ctx, objectstore.ListQuery{})
	if err != nil {
		return nil, err
	}
	for _, it := range page.Items {
		for _, subset := range it.Object.(*corev1.Endpoints).Subsets {
			for _, a := range subset.Addresses {
				if ip, err := netip.ParseAddr(a.IP); err == nil && ip.Is4() == s.cfg.Address.Is4() {
					out = append(out, ip)
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b netip.Addr) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(out), nil
}

func endpoints(all []netip.Addr, port int32) *corev1.Endpoints {
	s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: "https", Port: port, Protocol: corev1.ProtocolTCP}}}
	for _, a := range all {
		s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: a.String()})
	}
	return &corev1.Endpoints{
		TypeMeta:   metav1.TypeMeta{Kind: "Endpoints", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"}},
		Subsets:    []corev1.EndpointSubset{s},
	}
}

func endpointSlice(all []netip.Addr, port int32) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"},
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: &port, Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	if all[0].Is6() {
		s.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, a := range all {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	return s
}
