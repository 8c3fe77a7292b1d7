package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/bench"
)

// APIOptions say how an API server is measured.
type APIOptions struct {
	Objects     int           // that are created, and then read and changed
	ObjectBytes int           // about the size of one
	Clients     int           // requests that are under way at the same time, at most
	Duration    time.Duration // of the phases that are not over when every object had its turn
	Streams     int           // watches of the fan-out
	Updates     int           // that each of them gets
	Idle        time.Duration // for how long the server at rest is looked at
	Phases      []string      // to run, in the usual order; creation is always run. Empty: all
	Progress    io.Writer     // a line now and then; nil: none
}

// Result is what one phase measured. Servers.PeakBytes is what the server held at the end of the phase.
type Result struct {
	*bench.Result
	// CPUMicros is the server's processor time for an operation, in microseconds; of idle in parts of a million of a processor.
	CPUMicros float64  `json:"server_cpu_us_per_op"`
	Notes     []string `json:"notes,omitempty"`
}

// run is one measurement of an API server.
type run struct {
	*Target
	o         APIOptions
	namespace string
}

// phase measures something. ops says how often an object is the aim; measure is for those that are no loop of operations.
type phase struct {
	name    string
	op      func(r *run, ctx context.Context, w *bench.Worker, n int) error
	perTurn bool // over when every object had its turn, otherwise after the duration
	clients int  // 0: those of the options
	measure func(r *run, ctx context.Context) (*Result, error)
}

func phases() []phase {
	return []phase{
		{name: "idle", measure: (*run).idle},
		{name: "create", op: (*run).create, perTurn: true},
		{name: "get", op: (*run).get},
		{name: "update", op: (*run).update},
		{name: "patch", op: (*run).patch},
		{name: "apply", op: (*run).apply},
		{name: "list", op: listing(""), clients: 2},
		{name: "list-gzip", op: listing("gzip"), clients: 2},
		{name: "list-label", op: (*run).listLabel, clients: 2},
		{name: "list-pages", op: (*run).listPages, clients: 2},
		{name: "fan-out", measure: (*run).fanOut},
		{name: "delete", op: (*run).delete, perTurn: true},
		{name: "idle-after", measure: (*run).idle},
	}
}

// Phases are the names of all phases, in their order.
func Phases() (names []string) {
	for _, p := range phases() {
		names = append(names, p.name)
	}
	return names
}

// Check refuses what makes no sense.
func (o *APIOptions) Check() error {
	for _, name := range o.Phases {
		if !slices.Contains(Phases(), name) {
			return fmt.Errorf("kube: there is no phase %q; there are: %s", name, strings.Join(Phases(), " "))
		}
	}
	if o.Objects < 1 || o.ObjectBytes < 0 || o.Clients < 1 || o.Duration <= 0 || o.Streams < 1 || o.Updates < 1 {
		return errors.New("kube: objects, clients, duration, streams and updates must be more than 0")
	}
	return nil
}

// namespaceName is the namespace in which objects are made. It is removed in the end.
const namespaceName = "keelson-bench"

// API measures an API server. report is called with the result of each phase.
func API(ctx context.Context, t *Target, o APIOptions, report func(*Result)) (err error) {
	if err := o.Check(); err != nil {
		return err
	}
	r := &run{Target: t, o: o, namespace: namespaceName}
	if err := t.namespace(ctx, r.namespace); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.remove(ctx, r.namespace)) }()
	if _, err := r.rest(ctx); err != nil {
		return err
	}
	for _, p := range phases() {
		if len(o.Phases) > 0 && p.name != "create" && !slices.Contains(o.Phases, p.name) {
			continue
		}
		res, err := r.phase(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		res.Workload = p.name
		report(res)
	}
	return nil
}

func (r *run) phase(ctx context.Context, p phase) (*Result, error) {
	if p.measure != nil {
		return p.measure(r, ctx)
	}
	o := bench.Options{Clients: r.o.Clients, Duration: r.o.Duration, Progress: r.o.Progress}
	if p.clients > 0 {
		o.Clients = p.clients
	}
	if p.perTurn {
		o.Total = int64(r.o.Objects)
	}
	return r.metered(ctx, func() (*bench.Result, error) {
		return bench.Measure(ctx, p.name, o, func(ctx context.Context, w *bench.Worker) error {
			n := int(w.N)
			if !p.perTurn {
				n = w.Rng.IntN(r.o.Objects)
			}
			return p.op(r, ctx, w, n)
		})
	})
}

// metered adds to what something measures what the server took for it. The server is at rest before.
func (r *run) metered(ctx context.Context, measure func() (*bench.Result, error)) (*Result, error) {
	before, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	res, err := measure()
	if err != nil {
		return nil, err
	}
	after, err := r.rest(ctx)
	if err != nil {
		return nil, err
	}
	took := after.CPUSeconds - before.CPUSeconds
	res.Servers = &bench.Usage{CPUSeconds: took, PeakBytes: after.Bytes}
	out := &Result{Result: res}
	if res.Ops > 0 {
		out.CPUMicros = took * 1e6 / float64(res.Ops)
	}
	return out, nil
}

// A server rests when it takes less than restShare of a processor over restStep. It is not waited for longer than restLimit.
const (
	restStep  = 200 * time.Millisecond
	restShare = 0.15
	restLimit = 10 * time.Second
)

// rest waits until the server has little to do, so that what a phase left for it to do is on the phase's account.
func (r *run) rest(ctx context.Context) (Usage, error) {
	last, err := r.usage(ctx)
	for begun := time.Now(); err == nil && time.Since(begun) < restLimit; {
		select {
		case <-time.After(restStep):
		case <-ctx.Done():
			return last, ctx.Err()
		}
		var now Usage
		if now, err = r.usage(ctx); err == nil && now.CPUSeconds-last.CPUSeconds < restShare*restStep.Seconds() {
			return now, nil
		}
		last = now
	}
	return last, err
}

// idle looks at the server at rest.
func (r *run) idle(ctx context.Context) (*Result, error) {
	before, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	select {
	case <-time.After(r.o.Idle):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := r.usage(ctx)
	if err != nil {
		return nil, err
	}
	took := after.CPUSeconds - before.CPUSeconds
	share := took / time.Since(begun).Seconds()
	return &Result{
		Result:    &bench.Result{Seconds: time.Since(begun).Seconds(), Servers: &bench.Usage{CPUSeconds: took, PeakBytes: after.Bytes}},
		CPUMicros: share * 1e6,
		Notes:     []string{fmt.Sprintf("%.2f %% of a processor, %d MB resident", share*100, after.Bytes>>20)},
	}, nil
}

func objectName(n int) string { return "object-" + strconv.Itoa(n) }

// group is a label that one in ten objects has in common.
const group = "group"

// text is as hard to compress as names and digests are.
func text(n, bytes int) string {
	const letters = "abcdefghijklmnopqrstuvwxyz012345"
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, bytes)
	for i := range b {
		b[i] = letters[rng.IntN(len(letters))]
	}
	return string(b)
}

func (r *run) object(n int, sent string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: objectName(n), Namespace: r.namespace, Labels: map[string]string{group: strconv.Itoa(n % 10)}},
		Data:       map[string]string{"value": text(n, r.o.ObjectBytes), "sent": sent},
	}
}

func (r *run) body(req *rest.Request, n int) (*rest.Request, error) {
	b, err := r.encode(r.object(n, strconv.FormatInt(time.Now().UnixNano(), 10)))
	return req.SetHeader("Content-Type", r.content).Body(b), err
}

const configMaps = "configmaps"

func (r *run) create(ctx context.Context, w *bench.Worker, n int) error {
	req, err := r.body(r.core(w.ID).Post().Namespace(r.namespace).Resource(configMaps), n)
	if err != nil {
		return err
	}
	return drain(req.Stream(ctx))
}

func (r *run) get(ctx context.Context, w *bench.Worker, n int) error {
	return drain(r.core(w.ID).Get().Namespace(r.namespace).Resource(configMaps).Name(objectName(n)).Stream(ctx))
}

func (r *run) update(ctx context.Context, w *bench.Worker, n int) error {
	req, err := r.body(r.core(w.ID).Put().Namespace(r.namespace).Resource(configMaps).Name(objectName(n)), n)
	if err != nil {
		return err
	}
	return drain(req.Stream(ctx))
}

func (r *run) patch(ctx context.Context, w *bench.Worker, n int) error {
	body := fmt.Appendf(nil, `{"data":{"sent":"%d"}}`, time.Now().UnixNano())
	return drain(r.core(w.ID).Patch(types.StrategicMergePatchType).Namespace(r.namespace).Resource(configMaps).Name(objectName(n)).Body(body).Stream(ctx))
}

func (r *run) apply(ctx context.Context, w *bench.Worker, n int) error {
	body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q},"data":{"applied":"%d"}}`, objectName(n), time.Now().UnixNano())
	return drain(r.core(w.ID).Patch(types.ApplyPatchType).Namespace(r.namespace).Resource(configMaps).Name(objectName(n)).
		Param("fieldManager", "keelson-bench-apply").Body(body).Stream(ctx))
}

func (r *run) delete(ctx context.Context, w *bench.Worker, n int) error {
	return drain(r.core(w.ID).Delete().Namespace(r.namespace).Resource(configMaps).Name(objectName(n)).Stream(ctx))
}

// listing lists all objects. With an encoding given, client-go leaves the answer as it is.
func listing(encoding string) func(r *run, ctx context.Context, w *bench.Worker, _ int) error {
	if encoding == "" {
		encoding = "identity"
	}
	return func(r *run, ctx context.Context, w *bench.Worker, _ int) error {
		return drain(r.core(w.ID).Get().Namespace(r.namespace).Resource(configMaps).SetHeader("Accept-Encoding", encoding).Stream(ctx))
	}
}

func (r *run) listLabel(ctx context.Context, w *bench.Worker, n int) error {
	return drain(r.core(w.ID).Get().Namespace(r.namespace).Resource(configMaps).SetHeader("Accept-Encoding", "identity").
		Param("labelSelector", group+"="+strconv.Itoa(n%10)).Stream(ctx))
}

const pageLimit = 500

// listPages lists all objects in pages.
func (r *run) listPages(ctx context.Context, w *bench.Worker, _ int) error {
	next := ""
	for {
		b, err := r.core(w.ID).Get().Namespace(r.namespace).Resource(configMaps).SetHeader("Accept-Encoding", "identity").
			Param("limit", strconv.Itoa(pageLimit)).Param("continue", next).DoRaw(ctx)
		if err != nil {
			return err
		}
		if next = r.next(b); next == "" {
			return nil
		}
	}
}
