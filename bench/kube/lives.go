package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/bench"
)

// LivesOptions say how the lives of pods are measured.
type LivesOptions struct {
	Image    string        // that nodes have; it is not pulled
	Command  []string      // in the image; empty: the image's own
	Pods     int           // in each phase
	AtOnce   int           // that are started at the same time in the second half
	Patience time.Duration // how long one pod may take to be ready, or gone
	Progress io.Writer
}

// Check refuses what makes no sense.
func (o *LivesOptions) Check() error {
	if o.Image == "" {
		return errors.New("kube: an image is needed that nodes have")
	}
	if o.Pods < 1 || o.AtOnce < 1 || o.Patience <= 0 {
		return errors.New("kube: pods, those at once and the patience must be more than 0")
	}
	return nil
}

// Lives measures how long pods take from their creation until a client sees them ready, and from their deletion until it sees
// them gone: one after the other, then many at once. Pods have a grace period of a second, and should end when they are told to. report is called with each phase's result.
func Lives(ctx context.Context, t *Target, o LivesOptions, report func(*Result)) (err error) {
	if err := o.Check(); err != nil {
		return err
	}
	r := &run{Target: t, o: APIOptions{Progress: o.Progress}, namespace: namespaceName}
	if err := t.namespace(ctx, r.namespace); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, r.namespace)) }()
	if err := r.account(ctx); err != nil {
		return err
	}
	seen, err := r.lives(ctx)
	if err != nil {
		return err
	}
	defer seen.stop()
	for _, clients := range []int{1, o.AtOnce} {
		for _, p := range []struct {
			name string
			op   func(ctx context.Context, name string) error
		}{
			{"start", func(ctx context.Context, name string) error { return r.start(ctx, o, seen, name) }},
			{"end", func(ctx context.Context, name string) error { return r.end(ctx, o, seen, name) }},
		} {
			res, err := r.metered(ctx, func() (*bench.Result, error) {
				return bench.Measure(ctx, p.name, bench.Options{Clients: clients, Total: int64(o.Pods), Progress: o.Progress}, func(ctx context.Context, w *bench.Worker) error {
					return p.op(ctx, fmt.Sprintf("pod-%d-%d", clients, w.N))
				})
			})
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			res.Workload = p.name + "-" + strconv.Itoa(clients)
			report(res)
		}
	}
	return nil
}

func (r *run) start(ctx context.Context, o LivesOptions, seen *lives, name string) error {
	ready := seen.expect(name, func(_ watch.Event, p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
	_, err := r.clients[0].CoreV1().Pods(r.namespace).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(1)),
			Containers:                    []corev1.Container{{Name: "c", Image: o.Image, Command: o.Command, ImagePullPolicy: corev1.PullNever}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return seen.await(ctx, name, ready, o.Patience)
}

func (r *run) end(ctx context.Context, o LivesOptions, seen *lives, name string) error {
	gone := seen.expect(name, func(e watch.Event, _ *corev1.Pod) bool { return e.Type == watch.Deleted })
	if err := r.clients[0].CoreV1().Pods(r.namespace).Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return seen.await(ctx, name, gone, o.Patience)
}

// expectation is what somebody waits to see of a pod.
type expectation struct {
	met  func(watch.Event, *corev1.Pod) bool
	seen chan struct{}
}

// lives follows the pods of a namespace for those who wait.
type lives struct {
	watch watch.Interface
	ended chan struct{}

	mu    sync.Mutex
	wants map[string]*expectation
}

func (r *run) lives(ctx context.Context) (*lives, error) {
	w, err := r.clients[0].CoreV1().Pods(r.namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	l := &lives{watch: w, ended: make(chan struct{}), wants: map[string]*expectation{}}
	go func() {
		defer close(l.ended)
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				l.saw(e, p)
			}
		}
	}()
	return l, nil
}

func (l *lives) stop() {
	l.watch.Stop()
	<-l.ended
}

func (l *lives) saw(e watch.Event, p *corev1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x := l.wants[p.Name]; x != nil && x.met(e, p) {
		close(x.seen)
		delete(l.wants, p.Name)
	}
}

// expect is called before what brings it about.
func (l *lives) expect(name string, met func(watch.Event, *corev1.Pod) bool) <-chan struct{} {
	x := &expectation{met, make(chan struct{})}
	l.mu.Lock()
	l.wants[name] = x
	l.mu.Unlock()
	return x.seen
}

func (l *lives) await(ctx context.Context, name string, seen <-chan struct{}, patience time.Duration) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-seen:
		return nil
	case <-t.C:
		return fmt.Errorf("kube: the pod %s is not what was waited for after %v", name, patience)
	case <-l.ended:
		return errors.New("kube: the watch of the pods ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}
