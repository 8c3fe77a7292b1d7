package dns

import (
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	toolscache "k8s.io/client-go/tools/cache"
)

// source makes records of what informers see.
type source struct {
	zone  zone
	index *index

	mu        sync.Mutex
	services  map[string]*corev1.Service                       // by namespace/name
	slices    map[string]map[string]*discoveryv1.EndpointSlice // by service, by name
	serviceOf map[string]string                                // by namespace/name of a slice
}

func newSource(z zone, x *index) *source {
	return &source{zone: z, index: x, services: map[string]*corev1.Service{}, slices: map[string]map[string]*discoveryv1.EndpointSlice{}, serviceOf: map[string]string{}}
}

func (s *source) setService(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := svc.Namespace + "/" + svc.Name
	s.services[key] = svc
	s.remake(key)
}

func (s *source) dropService(svc *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := svc.Namespace + "/" + svc.Name
	delete(s.services, key)
	s.remake(key)
}

func (s *source) setSlice(slice *discoveryv1.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := slice.Namespace + "/" + slice.Name
	key := slice.Namespace + "/" + slice.Labels[discoveryv1.LabelServiceName]
	if was, ok := s.serviceOf[name]; ok && was != key {
		s.forget(name)
	}
	s.serviceOf[name] = key
	of := s.slices[key]
	if of == nil {
		of = map[string]*discoveryv1.EndpointSlice{}
		s.slices[key] = of
	}
	of[name] = slice
	s.remake(key)
}

func (s *source) dropSlice(slice *discoveryv1.EndpointSlice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(slice.Namespace + "/" + slice.Name)
}

func (s *source) forget(slice string) {
	key := s.serviceOf[slice]
	delete(s.serviceOf, slice)
	delete(s.slices[key], slice)
	if len(s.slices[key]) == 0 {
		delete(s.slices, key)
	}
	s.remake(key)
}

// remake makes the records of a service anew. Slices matter to headless services only.
func (s *source) remake(key string) {
	svc := s.services[key]
	if svc == nil {
		s.index.set(key, nil)
		return
	}
	var slices []*discoveryv1.EndpointSlice
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		for _, slice := range s.slices[key] {
			slices = append(slices, slice)
		}
	}
	s.index.set(key, s.zone.recordsOf(svc, slices))
}

// handlers are two functions as an informer calls them.
func handlers[T any](set, drop func(T)) toolscache.ResourceEventHandler {
	on := func(f func(T)) func(any) {
		return func(o any) {
			if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if t, ok := o.(T); ok {
				f(t)
			}
		}
	}
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: on(set), DeleteFunc: on(drop),
		UpdateFunc: func(_, o any) { on(set)(o) },
	}
}

// follow calls a server's tables for what informers see. stop takes the handlers away again.
func (s *Server) follow() (synced []toolscache.InformerSynced, stop func(), err error) {
	src := newSource(s.zone, s.index)
	type registered struct {
		informer toolscache.SharedIndexInformer
		handle   toolscache.ResourceEventHandlerRegistration
	}
	var all []registered
	stop = func() {
		for _, r := range all {
			_ = r.informer.RemoveEventHandler(r.handle)
		}
	}
	pods := handlers(func(p *corev1.Pod) { s.clients.set(s.zone, s.searches, p) }, s.clients.drop)
	for _, w := range []struct {
		informer toolscache.SharedIndexInformer
		handler  toolscache.ResourceEventHandler
	}{
		{s.cfg.Services, handlers(src.setService, src.dropService)},
		{s.cfg.Slices, handlers(src.setSlice, src.dropSlice)},
		{s.cfg.Pods, pods},
	} {
		if w.informer == nil {
			continue
		}
		r, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("dns: %w", err)
		}
		all = append(all, registered{w.informer, r})
		synced = append(synced, r.HasSynced)
	}
	return synced, stop, nil
}
