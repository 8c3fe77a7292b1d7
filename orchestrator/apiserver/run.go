package apiserver

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/apiserver/advertise"
	"github.com/keelson-io/keelson/orchestrator/apiserver/aggregate"
	"github.com/keelson-io/keelson/orchestrator/apiserver/fairness"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Run does what an API server does beside answering: it follows the objects that rights come from, and makes those that every
// cluster has. It ends with the context. Started is called when the server is ready.
func (a *API) Run(ctx context.Context, started func()) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	go func() { _, _ = a.types() }() // takes a moment, and the first write needs it
	wg.Go(func() { a.server.workers.run(ctx) })
	synced := a.follow(ctx, &wg)
	wg.Go(func() { a.flow.Run(ctx) })
	wg.Go(func() { a.custom.manager.Run(ctx) })
	defer a.custom.webhook.Close()
	defer a.connector.Close()
	if err := a.bootstrap(ctx); err != nil {
		return fmt.Errorf("apiserver: the objects that every cluster has: %w", err)
	}
	a.stages.done(stageBootstrap)
	wg.Go(func() { a.services.Run(ctx) })
	if address, port := a.endpoint(); address.IsValid() {
		s := advertise.New(advertise.Config{Store: a.cfg.Store, Address: address, Port: port, Write: a.write, Clock: a.cfg.Clock, Logger: a.cfg.Logger})
		wg.Go(func() { s.Run(ctx) })
	}
	for stage, done := range map[string]<-chan struct{}{stageInformers: synced, stageDefinitions: a.custom.manager.Ready()} {
		select {
		case <-done:
			a.stages.done(stage)
		case <-ctx.Done():
			return nil
		}
	}
	wg.Go(func() { a.keepFlow(ctx) })
	wg.Go(func() { a.aggregate(ctx) })
	wg.Go(func() { a.publishTrust(ctx) })
	close(a.started)
	started()
	<-ctx.Done()
	return nil
}

// Retire makes the server say that it is not ready, so that no new clients come. It serves on.
func (a *API) Retire() { a.stages.retire() }

// Drain ends all watches, with the end of their streams.
func (a *API) Drain() {
	a.Retire()
	a.server.Drain()
}

// followed are the resources that rights, the sharing of seats and the ways to other API servers come from.
func (a *API) followed() map[schema.GroupResource]mirror {
	rbac := func(resource string) schema.GroupResource {
		return schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}
	}
	return map[schema.GroupResource]mirror{
		rbac("roles"): a.policy, rbac("rolebindings"): a.policy, rbac("clusterroles"): a.policy, rbac("clusterrolebindings"): a.policy,
		podResource: a.graph, volumeResource: a.graph, schemaResource: a.flow, levelResource: a.flow,
		attachmentResource: a.graph, deviceSliceResource: a.graph, podCertificateResource: a.graph,
		apiServiceResource: a.aggregator, serviceResource: aggregate.Followed{Aggregator: a.aggregator}, sliceResource: aggregate.Followed{Aggregator: a.aggregator},
	}
}

// follow begins to follow, and closes the channel when all mirrors are complete.
func (a *API) follow(ctx context.Context, wg *sync.WaitGroup) <-chan struct{} {
	synced := make(chan struct{})
	var waiting sync.WaitGroup
	for r, m := range a.followed() {
		c, err := a.objects.collection(r, "")
		if err != nil {
			continue
		}
		a.stages.informers.Expect(r.String())
		waiting.Add(1)
		f := &follower{objects: c, mirror: m, clock: a.cfg.Clock, logger: a.cfg.Logger, synced: sync.OnceFunc(func() {
			a.stages.informers.Done(r.String())
			waiting.Done()
		})}
		wg.Go(func() { f.run(ctx) })
	}
	go func() {
		waiting.Wait()
		close(synced)
	}()
	return synced
}

// bootstrapWriters is how many objects are written at the same time.
const bootstrapWriters = 16

// bootstrap makes the objects that every cluster has, and brings the default roles up to date.
func (a *API) bootstrap(ctx context.Context) error {
	for _, o := range namespaces() {
		if err := a.ensure(ctx, o); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(bootstrapWriters)
	for _, o := range slices.Concat(rights.Defaults(), joining(), strangers(), a.metricsRights(), priorityClasses(), a.ownService()) {
		g.Go(func() error { return a.ensure(ctx, o) })
	}
	if a.cfg.Discovery != "" {
		g.Go(func() error { return a.tellStrangers(ctx) })
	}
	for _, d := range fairness.Defaults() {
		g.Go(func() error { return a.ensureFlow(ctx, d) })
	}
	return g.Wait()
}

// write creates an object, or has set change the one that there is, and stores it if set says that it did.
func (a *API) write(ctx context.Context, o kinds.Object, set func(existing kinds.Object) bool) error {
	res := a.resourceOf(o.GetObjectKind().GroupVersionKind())
	if res == nil {
		return nil // not served
	}
	t := ownTarget("keelson", o.GetNamespace(), o.GetName(), nil)
	it, err := res.Get(ctx, t.Namespace, t.Name, "")
	switch {
	case apierrors.IsNotFound(err):
		t.Options = &metav1.CreateOptions{}
		_, err = res.Create(ctx, t, o)
		return err
	case err != nil:
		return err
	}
	if !set(it.Object.DeepCopyObject().(kinds.Object)) {
		return nil
	}
	t.Options = &metav1.UpdateOptions{}
	_, err = res.Change(ctx, t, func(current kinds.Object) (kinds.Object, error) {
		c := current.DeepCopyObject().(kinds.Object)
		set(c)
		return c, nil
	})
	return err
}

// ensure creates an object that is not there, and reconciles roles and bindings.
func (a *API) ensure(ctx context.Context, o kinds.Object) error {
	gvk := o.GetObjectKind().GroupVersionKind()
	res := a.resourceOf(gvk)
	if res == nil {
		return nil // not served
	}
	t := ownTarget("keelson", o.GetNamespace(), o.GetName(), nil)
	it, err := res.Get(ctx, t.Namespace, t.Name, "")
	if apierrors.IsNotFound(err) {
		created := *t
		created.Options = &metav1.CreateOptions{}
		if _, err = res.Create(ctx, &created, o); apierrors.IsAlreadyExists(err) {
			return nil // another API server was faster
		}
	}
	if err != nil || it == nil || gvk.Group != rbacv1.GroupName {
		return err
	}
	return a.reconcile(ctx, res, t, it.Object, o)
}

func (a *API) reconcile(ctx context.Context, res *verbs.Resource, t *verbs.Target, existing, expected kinds.Object) error {
	want, op, err := rights.Reconcile(existing, expected)
	if err != nil || op == rights.Keep {
		return err
	}
	if op == rights.Recreate {
		if _, _, err := res.Delete(ctx, t, &metav1.DeleteOptions{}); err != nil {
			return err
		}
		_, err = res.Create(ctx, t, want)
		return err
	}
	_, _, err = res.Update(ctx, t, want)
	if apierrors.IsConflict(err) {
		a.cfg.Logger.Info("a default role was changed meanwhile", zap.String("name", t.Name))
		return nil
	}
	return err
}

// resourceOf finds what serves a kind.
func (a *API) resourceOf(gvk schema.GroupVersionKind) *verbs.Resource {
	for _, r := range a.server.table.Load().resources {
		if r.Kind.GroupVersionKind == gvk {
			return r
		}
	}
	return nil
}
