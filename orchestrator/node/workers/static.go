package workers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// Annotations of static pods and of their mirrors on the API server.
const (
	annotationSource = "kubernetes.io/config.source"
	annotationConfig = "kubernetes.io/config.hash"
	annotationMirror = "kubernetes.io/config.mirror"
)

func isMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[annotationMirror]
	return ok
}

func isStatic(p *corev1.Pod) bool {
	s, ok := p.Annotations[annotationSource]
	return ok && s != "api" && !isMirror(p)
}

type mirrors struct{}

func newMirrors() *mirrors                        { return &mirrors{} }
func (m *mirrors) of(_ *corev1.Pod) *corev1.Pod   { return nil }
func (m *mirrors) set(_ *corev1.Pod)              {}
func (m *mirrors) remove(_ *corev1.Pod)           {}
func (ws *Workers) watchStatic(_ context.Context) {}
func (ws *Workers) retryDeferred()                {}
