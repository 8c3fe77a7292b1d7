package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/bench"
)

// ScheduleOptions say how a scheduler is measured.
type ScheduleOptions struct {
	Nodes    int           // that there must be at least
	Pods     int           // to be scheduled
	Workload string        // see Workloads
	Clients  int           // creations that are under way at the same time, at most
	Quiet    time.Duration // how long nothing may be bound before the measurement gives up
	Progress io.Writer
}

// Scheduled is what a measurement of a scheduler found.
type Scheduled struct {
	Workload string  `json:"workload"`
	Nodes    int     `json:"nodes"`
	Pods     int     `json:"pods"`                   // that were created
	Bound    int     `json:"bound"`                  // of these
	Seconds  float64 `json:"seconds"`                // from the first creation to the last binding
	Rate     float64 `json:"pods_per_second"`        // over all of it
	Steady   float64 `json:"steady_pods_per_second"` // between the binding of the first and the last tenth
	Created  float64 `json:"creations_per_second"`
	// AttemptP50 and AttemptP99 are of the scheduler's attempts, in milliseconds, estimated from its histogram; 0 if it is not in
	// the server's process.
	AttemptP50 float64      `json:"attempt_p50_ms"`
	AttemptP99 float64      `json:"attempt_p99_ms"`
	CPUMicros  float64      `json:"server_cpu_us_per_pod"`
	Servers    *bench.Usage `json:"servers"`
	BenchCPU   float64      `json:"bench_cpu_seconds"`
}

// Workloads are the pods that there are to be scheduled, with what is said of them.
func Workloads() [][2]string {
	var out [][2]string
	for _, w := range podWorkloads {
		out = append(out, [2]string{w.name, w.doc})
	}
	return out
}

// Check refuses what makes no sense.
func (o *ScheduleOptions) Check() error {
	if o.workload() == nil {
		var names []string
		for _, w := range podWorkloads {
			names = append(names, w.name)
		}
		return fmt.Errorf("kube: there is no workload %q; there are: %s", o.Workload, strings.Join(names, " "))
	}
	if o.Nodes < 1 || o.Pods < 1 || o.Clients < 1 || o.Quiet <= 0 {
		return errors.New("kube: nodes, pods, clients and the time to wait must be more than 0")
	}
	if o.workload().filler != nil && o.Pods > o.Nodes {
		return fmt.Errorf("kube: %d nodes have no room for %d pods of the workload %s: one fits on each", o.Nodes, o.Pods, o.Workload)
	}
	return nil
}

func (o *ScheduleOptions) workload() *podWorkload {
	i := slices.IndexFunc(podWorkloads, func(w podWorkload) bool { return w.name == o.Workload })
	if i < 0 {
		return nil
	}
	return &podWorkloads[i]
}

// Schedule measures how fast pods are scheduled. They are left to the removal of their namespace, which is not waited for.
func Schedule(ctx context.Context, t *Target, o ScheduleOptions) (_ *Scheduled, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	r := &run{Target: t, o: APIOptions{Progress: o.Progress}, namespace: namespaceName}
	nodes, err := r.nodes(ctx)
	if err != nil {
		return nil, err
	}
	if nodes < o.Nodes {
		return nil, fmt.Errorf("kube: there are %d nodes, not %d", nodes, o.Nodes)
	}
	if err := t.namespace(ctx, r.namespace); err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, t.clients[0].CoreV1().Namespaces().Delete(context.WithoutCancel(ctx), r.namespace, metav1.DeleteOptions{}))
	}()
	if err := r.account(ctx); err != nil {
		return nil, err
	}
	w := o.workload()
	if w.filler != nil {
		if err := r.priority(ctx); err != nil {
			return nil, err
		}
		if _, err := r.schedule(ctx, o, w.filler, nodes); err != nil {
			return nil, fmt.Errorf("the pods that are there first: %w", err)
		}
	}
	s, err := r.schedule(ctx, o, w.pod, o.Pods)
	if err != nil {
		return nil, err
	}
	s.Workload, s.Nodes = o.Workload, nodes
	return s, nil
}

// nodes counts the nodes.
func (r *run) nodes(ctx context.Context) (int, error) {
	l, err := r.clients[0].CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return 0, err
	}
	n := len(l.Items)
	if l.RemainingItemCount != nil {
		n += int(*l.RemainingItemCount)
	}
	return n, nil
}

// account waits until pods can be created: for their service account.
func (r *run) account(ctx context.Context) error {
	for {
		_, err := r.clients[0].CoreV1().ServiceAccounts(r.namespace).Get(ctx, "default", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// priority makes the class of pods that may preempt others.
func (r *run) priority(ctx context.Context) error {
	_, err := r.clients[0].SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: urgent}, Value: 1000,
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// schedule creates pods and follows their bindings.
func (r *run) schedule(ctx context.Context, o ScheduleOptions, pod func(i, nodes int) *corev1.Pod, count int) (*Scheduled, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sample := pod(0, o.Nodes)
	bound, err := r.bindings(ctx, sample.Labels[set])
	if err != nil {
		return nil, err
	}
	defer bound.wait()
	defer cancel()
	before, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	attempts, err := r.attempts(ctx)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	made, err := bench.Measure(ctx, "creations", bench.Options{Clients: o.Clients, Total: int64(count), Progress: o.Progress},
		func(ctx context.Context, w *bench.Worker) error {
			p := pod(int(w.N), o.Nodes)
			p.Namespace, p.Name = r.namespace, sample.Labels[set]+"-"+strconv.Itoa(int(w.N))
			b, err := r.encode(p)
			if err != nil {
				return err
			}
			return drain(r.core(w.ID).Post().Namespace(r.namespace).Resource("pods").SetHeader("Content-Type", r.content).Body(b).Stream(ctx))
		})
	if err != nil {
		return nil, err
	}
	if made.Errors > 0 {
		return nil, fmt.Errorf("%d creations failed, the last with: %s", made.Errors, made.LastError)
	}
	times := bound.until(ctx, int(made.Ops), o.Quiet)
	s := &Scheduled{Pods: int(made.Ops), Bound: len(times), Created: made.Rate, BenchCPU: made.BenchCPUSeconds}
	if len(times) > 0 {
		s.Seconds = times[len(times)-1].Sub(begun).Seconds()
		s.Rate = float64(len(times)) / s.Seconds
		s.Steady = steady(times)
	}
	after, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	took := after.CPUSeconds - before.CPUSeconds
	s.Servers = &bench.Usage{CPUSeconds: took, PeakBytes: after.Bytes}
	s.CPUMicros = took * 1e6 / float64(max(1, s.Bound))
	now, err := r.attempts(ctx)
	if err != nil {
		return nil, err
	}
	s.AttemptP50, s.AttemptP99 = now.minus(attempts).quantile(0.5)*1e3, now.minus(attempts).quantile(0.99)*1e3
	return s, nil
}

// steady is the rate between the first and the last tenth.
func steady(times []time.Time) float64 {
	from, to := len(times)/10, len(times)-len(times)/10-1
	if d := times[to].Sub(times[from]).Seconds(); d > 0 {
		return float64(to-from) / d
	}
	return 0
}

// bindings are the times at which pods were seen to be bound.
type bindings struct {
	mu    sync.Mutex
	times []time.Time
	done  chan struct{}
}

// bindings follows the pods of a set that have a node: a watch that selects them gets one event when that comes to be.
func (r *run) bindings(ctx context.Context, of string) (*bindings, error) {
	l, err := r.clients[0].CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return nil, err
	}
	body, err := r.watch(ctx, 0, r.namespace, "pods", set+"="+of, "spec.nodeName!=", l.ResourceVersion)
	if err != nil {
		return nil, err
	}
	b := &bindings{done: make(chan struct{})}
	next := r.frames(body)
	go func() {
		defer close(b.done)
		defer body.Close()
		for {
			frame, err := next()
			if err != nil {
				return
			}
			if bytes.Contains(frame[:min(len(frame), 32)], []byte("ADDED")) {
				b.mu.Lock()
				b.times = append(b.times, time.Now())
				b.mu.Unlock()
			}
		}
	}()
	return b, nil
}

func (b *bindings) wait() { <-b.done }

// until waits for so many bindings, or until there was none for a time, or the watch ended.
func (b *bindings) until(ctx context.Context, n int, quiet time.Duration) []time.Time {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	since, seen := time.Now(), 0
	for {
		b.mu.Lock()
		times := slices.Clip(b.times)
		b.mu.Unlock()
		if len(times) > seen {
			since, seen = time.Now(), len(times)
		}
		if len(times) >= n || time.Since(since) > quiet {
			return times
		}
		select {
		case <-t.C:
		case <-b.done:
			return times
		case <-ctx.Done():
			return times
		}
	}
}

// buckets are the upper bounds of a histogram and how many were not above them.
type buckets struct {
	bounds []float64
	counts []float64
}

// attempts reads the scheduler's histogram of attempts, if it is in the server's process.
func (r *run) attempts(ctx context.Context) (b buckets, err error) {
	text, err := r.metrics(ctx)
	if err != nil {
		return b, err
	}
	const name = `scheduler_scheduling_attempt_duration_seconds_bucket{`
	for line := range bytes.Lines(text) {
		labels, ok := bytes.CutPrefix(line, []byte(name))
		if !ok || !bytes.Contains(labels, []byte(`result="scheduled"`)) {
			continue
		}
		le, _, _ := strings.Cut(string(labels[bytes.LastIndex(labels, []byte(`le="`))+len(`le="`):]), `"`)
		bound, err := strconv.ParseFloat(le, 64)
		fields := strings.Fields(string(labels))
		count, cerr := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil || cerr != nil {
			return b, fmt.Errorf("kube: the metric %s: %w", name, errors.Join(err, cerr))
		}
		b.bounds, b.counts = append(b.bounds, bound), append(b.counts, count)
	}
	return b, nil
}

func (b buckets) minus(before buckets) buckets {
	if len(before.counts) != len(b.counts) {
		return b
	}
	out := buckets{bounds: b.bounds, counts: slices.Clone(b.counts)}
	for i, n := range before.counts {
		out.counts[i] -= n
	}
	return out
}

// quantile estimates as Prometheus does: evenly within a bucket.
func (b buckets) quantile(q float64) float64 {
	if len(b.counts) == 0 || b.counts[len(b.counts)-1] == 0 {
		return 0
	}
	rank, low, below := q*b.counts[len(b.counts)-1], 0.0, 0.0
	for i, n := range b.counts {
		if n >= rank {
			if math.IsInf(b.bounds[i], 1) {
				return low
			}
			return low + (b.bounds[i]-low)*(rank-below)/(n-below)
		}
		low, below = b.bounds[i], n
	}
	return low
}

// Line writes the result for people.
func (s *Scheduled) Line(w io.Writer) {
	fmt.Fprintf(w, "%s: %d nodes, %d of %d pods bound in %.1f s\n", s.Workload, s.Nodes, s.Bound, s.Pods, s.Seconds)
	fmt.Fprintf(w, "  %.0f pods/s, steady %.0f pods/s; created at %.0f/s\n", s.Rate, s.Steady, s.Created)
	fmt.Fprintf(w, "  attempts: p50 %.2f ms, p99 %.2f ms\n", s.AttemptP50, s.AttemptP99)
	fmt.Fprintf(w, "  server: %.0f us of CPU a pod, %d MB resident\n", s.CPUMicros, s.Servers.PeakBytes>>20)
}
