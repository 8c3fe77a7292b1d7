package apiserver

import (
	"context"
	"crypto/tls"
	"maps"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/aggregate"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

var (
	apiServiceKind     = apiregistrationv1.SchemeGroupVersion.WithKind("APIService")
	apiServiceResource = schema.GroupResource{Group: apiregistrationv1.GroupName, Resource: "apiservices"}
)

// Aggregation is how other API servers know this one.
type Aggregation struct {
	// Certificate is shown to them; nil: none is.
	Certificate *tls.Certificate
	// Trust is published for them.
	Trust aggregate.Trust
}

// newAggregator makes what sends requests to other API servers.
func (a *API) newAggregator() (*aggregate.Aggregator, error) {
	return aggregate.New(aggregate.Config{
		Services: services{a.objects}, Objects: apiServices{a}, Local: a.groupVersions, Yielding: map[string]bool{metricsv1beta1.GroupName: true}, Certificate: a.cfg.Aggregation.Certificate,
		Fail: a.fail, Registerer: a.cfg.Registry, Clock: a.cfg.Clock, Logger: a.cfg.Logger,
	})
}

// groupVersions are all that this server has, and whether they are those of custom resources.
func (a *API) groupVersions() map[schema.GroupVersion]bool {
	all := map[schema.GroupVersion]bool{}
	for _, k := range a.custom.all() {
		all[k.GroupVersion()] = true
	}
	for _, k := range a.cfg.Kinds {
		all[k.GroupVersion()] = false
	}
	for _, v := range a.virtual() {
		all[v.GroupVersion()] = false
	}
	return all
}

// aggregate keeps APIServices, and tells other API servers whom to believe, until the context ends.
func (a *API) aggregate(ctx context.Context) {
	if a.resourceOf(apiServiceKind) == nil {
		return // not served
	}
	a.aggregator.Run(ctx)
}

// trustEvery is how often it is made sure that other API servers can know whom to believe.
const trustEvery = time.Minute

// publishTrust keeps the object in which that is, until the context ends.
func (a *API) publishTrust(ctx context.Context) {
	every := a.cfg.Clock.NewTicker(trustEvery)
	defer every.Stop()
	for {
		if err := a.writeTrust(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Warn("who is to be believed could not be published", zap.Error(err))
		}
		select {
		case <-every.C():
		case <-ctx.Done():
			return
		}
	}
}

func (a *API) writeTrust(ctx context.Context) error {
	trust := a.cfg.Aggregation.Trust
	o := &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: aggregate.TrustNamespace, Name: aggregate.TrustName}, Data: trust.Data(nil),
	}
	if len(o.Data) == 0 {
		return nil
	}
	return a.write(ctx, o, func(existing kinds.Object) bool {
		c := existing.(*corev1.ConfigMap)
		data := trust.Data(c.Data)
		changed := !maps.Equal(data, c.Data)
		c.Data = data
		return changed
	})
}

// apiServices writes APIServices.
type apiServices struct{ api *API }

func (s apiServices) Create(ctx context.Context, o *apiregistrationv1.APIService) error {
	_, err := s.api.resourceOf(apiServiceKind).Create(ctx, ownTarget("keelson", "", o.Name, &metav1.CreateOptions{}), o)
	return err
}

func (s apiServices) Update(ctx context.Context, name string, change func(o *apiregistrationv1.APIService) bool) error {
	return s.change(ctx, name, "", change)
}

func (s apiServices) UpdateStatus(ctx context.Context, name string, change func(o *apiregistrationv1.APIService) bool) error {
	return s.change(ctx, name, "status", change)
}

func (s apiServices) change(ctx context.Context, name, subresource string, change func(o *apiregistrationv1.APIService) bool) error {
	res := s.api.resourceOf(apiServiceKind)
	it, err := res.Get(ctx, "", name, "0")
	if err != nil || !change(it.Object.DeepCopyObject().(*apiregistrationv1.APIService)) {
		return err
	}
	t := ownTarget("keelson", "", name, &metav1.UpdateOptions{})
	t.Subresource = subresource
	_, err = res.Change(ctx, t, func(current kinds.Object) (kinds.Object, error) {
		o := current.DeepCopyObject().(*apiregistrationv1.APIService)
		if !change(o) {
			return current.DeepCopyObject().(kinds.Object), nil
		}
		return o, nil
	})
	return err
}

func (s apiServices) Delete(ctx context.Context, o *apiregistrationv1.APIService) error {
	_, _, err := s.api.resourceOf(apiServiceKind).Delete(ctx, ownTarget("keelson", "", o.Name, nil), &metav1.DeleteOptions{
		Preconditions: metav1.NewUIDPreconditions(string(o.UID)),
	})
	return err
}
