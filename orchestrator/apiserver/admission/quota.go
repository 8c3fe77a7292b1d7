package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	quota "k8s.io/apiserver/pkg/quota/v1"

	"github.com/keelson-io/keelson/internal/clock"
)

// QuotaWriter stores what is used of quotas.
type QuotaWriter interface {
	// SetUsed stores q.Status.Used, if the quota is still the one of q.ResourceVersion, and returns what was stored. Otherwise
	// it returns a status error Conflict.
	SetUsed(ctx context.Context, q *corev1.ResourceQuota) (*corev1.ResourceQuota, error)
}

// ResourceQuota keeps namespaces within their quotas. Whatever passes is charged at once, before it is stored: the quota
// controller corrects what came of it. Requests in one namespace that come at the same time are charged together.
//
// It has to be the last validating plugin: what another one refuses afterwards would be charged.
type ResourceQuota struct {
	Lookup Lookup
	Quotas QuotaWriter
	Clock  clock.Clock

	mu    sync.Mutex
	lines map[string]*quotaLine // by namespace
}

const (
	quotaAttempts = 4 // to store what is used
	quotaPatience = 10 * time.Second
)

var resourceQuotas = schema.GroupResource{Resource: "resourcequotas"}

// quotaLine is the requests in a namespace that wait to be charged.
type quotaLine struct {
	waiting []*charge
	// own are quotas as they were stored last, for as long as the cache may have older ones.
	own []*corev1.ResourceQuota
}

// charge is a request that waits.
type charge struct {
	a    *Attributes
	done chan error
}

// Validate checks and charges.
func (p *ResourceQuota) Validate(ctx context.Context, a *Attributes) error {
	if a.Namespace == "" || a.isResource("", "namespaces", "") || measureOf(a) == nil {
		return nil
	}
	quotas, err := p.list(ctx, a.Namespace)
	if err != nil || len(quotas) == 0 {
		return err
	}
	c := &charge{a: a, done: make(chan error, 1)}
	p.enqueue(ctx, a.Namespace, c)
	patience := p.Clock.NewTimer(quotaPatience)
	defer patience.Stop()
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
	case <-patience.C():
		return apierrors.NewInternalError(errors.New("resource quota evaluation timed out"))
	}
}

func (p *ResourceQuota) list(ctx context.Context, namespace string) (out []*corev1.ResourceQuota, err error) {
	all, err := p.Lookup.List(ctx, resourceQuotas, namespace)
	for _, o := range all {
		if q, ok := objectOf[*corev1.ResourceQuota](o); ok {
			out = append(out, q)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.ResourceQuota) int { return strings.Compare(a.Name, b.Name) })
	return out, err
}

// enqueue puts a request into its namespace's line, and starts to serve the line if nobody does.
func (p *ResourceQuota) enqueue(ctx context.Context, namespace string, c *charge) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.lines[namespace]; l != nil {
		l.waiting = append(l.waiting, c)
		return
	}
	if p.lines == nil {
		p.lines = map[string]*quotaLine{}
	}
	p.lines[namespace] = &quotaLine{waiting: []*charge{c}}
	go p.serve(context.WithoutCancel(ctx), namespace)
}

// serve charges what waits until nothing does.
func (p *ResourceQuota) serve(ctx context.Context, namespace string) {
	for {
		p.mu.Lock()
		l := p.lines[namespace]
		batch := l.waiting
		l.waiting = nil
		if len(batch) == 0 {
			delete(p.lines, namespace)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		bounded, cancel := context.WithTimeout(ctx, quotaPatience)
		p.settle(bounded, l, namespace, batch)
		cancel()
	}
}

// settle decides about a batch.
func (p *ResourceQuota) settle(ctx context.Context, l *quotaLine, namespace string, batch []*charge) {
	quotas, err := p.list(ctx, namespace)
	if err != nil {
		answer(batch, err)
		return
	}
	for i, q := range quotas {
		for _, own := range l.own {
			if n, err := resourceversion.CompareResourceVersion(own.ResourceVersion, q.ResourceVersion); own.UID == q.UID && err == nil && n > 0 {
				quotas[i] = own
			}
		}
	}
	for attempt := 1; len(batch) > 0; attempt++ {
		var changed []*corev1.ResourceQuota
		batch, changed = p.decide(quotas, batch)
		quotas = nil
		for _, q := range changed {
			stored, err2 := p.Quotas.SetUsed(ctx, q)
			if err2 != nil {
				err = err2
				quotas = append(quotas, q)
				continue
			}
			l.own = append(slices.DeleteFunc(l.own, func(o *corev1.ResourceQuota) bool { return o.UID == q.UID }), stored)
		}
		if len(quotas) == 0 {
			answer(batch, nil)
			return
		}
		if attempt == quotaAttempts {
			answer(batch, err)
			return
		}
		if quotas, err = p.again(ctx, l, quotas); err != nil {
			answer(batch, err)
			return
		}
	}
}

func answer(batch []*charge, err error) {
	for _, c := range batch {
		c.done <- err
	}
}

// again reads quotas from the store. Those that are gone limit nothing.
func (p *ResourceQuota) again(ctx context.Context, l *quotaLine, quotas []*corev1.ResourceQuota) (out []*corev1.ResourceQuota, _ error) {
	for _, q := range quotas {
		l.own = slices.DeleteFunc(l.own, func(o *corev1.ResourceQuota) bool { return o.UID == q.UID })
		o, err := p.Lookup.Get(ctx, resourceQuotas, q.Namespace, q.Name, true)
		if apierrors.IsNotFound(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		if fresh, ok := objectOf[*corev1.ResourceQuota](o); ok {
			out = append(out, fresh)
		}
	}
	return out, nil
}

// decide answers the requests that are refused or take nothing, one after the other, and returns the others with the quotas
// that have to be stored for them.
func (p *ResourceQuota) decide(quotas []*corev1.ResourceQuota, batch []*charge) (open []*charge, changed []*corev1.ResourceQuota) {
	running := slices.Clone(quotas)
	for _, c := range batch {
		next, err := p.check(running, c.a)
		if err != nil || c.a.DryRun || slices.Equal(next, running) {
			c.done <- err
			continue
		}
		running = next
		open = append(open, c)
	}
	for i, q := range running {
		if q != quotas[i] && !quota.Equals(q.Status.Used, quotas[i].Status.Used) {
			changed = append(changed, q)
		}
	}
	return open, changed
}

// check returns the quotas with what a request takes, or why it is refused. Those that are not concerned stay the same.
func (p *ResourceQuota) check(quotas []*corev1.ResourceQuota, a *Attributes) ([]*corev1.ResourceQuota, error) {
	m, now := measureOf(a), p.Clock.Now()
	takes := m.Of(a.Object, now)
	out := slices.Clone(quotas)
	var concerned []int
	for i, q := range quotas {
		in, err := m.Matches(q, a.Object)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if !in {
			continue
		}
		limited := m.Names(quota.ResourceNames(q.Status.Hard))
		if err := m.Requires(limited, a.Object); err != nil {
			return nil, Forbidden(a, fmt.Errorf("failed quota: %s: %w", q.Name, err))
		}
		for _, name := range limited {
			if _, ok := q.Status.Used[name]; !ok {
				return nil, Forbidden(a, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, joinNames(limited)))
			}
		}
		concerned = append(concerned, i)
	}
	if negative := quota.IsNegative(takes); len(negative) > 0 {
		return nil, Forbidden(a, fmt.Errorf("quota usage is negative for resource(s): %s", joinNames(negative)))
	}
	for _, i := range concerned {
		more, err := takenMore(m, quotas[i], takes, a, now)
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			continue
		}
		if out[i], err = charged(quotas[i], more, a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// charged returns a quota with more used of it.
func charged(q *corev1.ResourceQuota, more corev1.ResourceList, a *Attributes) (*corev1.ResourceQuota, error) {
	hard, used := q.Status.Hard, q.Status.Used
	asked := quota.Mask(more, quota.ResourceNames(hard))
	after := quota.Add(used, asked)
	if a.Subresource != "status" {
		if ok, over := quota.LessThanOrEqual(quota.Mask(after, quota.ResourceNames(asked)), hard); !ok {
			return nil, Forbidden(a, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name,
				joinQuantities(quota.Mask(asked, over)), joinQuantities(quota.Mask(used, over)), joinQuantities(quota.Mask(hard, over))))
		}
	}
	q = q.DeepCopy()
	q.Status.Used = after
	return q, nil
}

func joinNames(names []corev1.ResourceName) string {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, string(name))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

func joinQuantities(l corev1.ResourceList) string {
	var parts []string
	for _, name := range sortedNames(l) {
		q := l[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}
