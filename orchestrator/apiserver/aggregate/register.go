package aggregate

import (
	"context"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
)

// automanaged is the label of the APIServices that are kept here: those with always whatever happens, those with onStart are put
// in order when a server starts.
const (
	automanaged = "kube-aggregator.kubernetes.io/automanaged"
	always      = "true"
	onStart     = "onstart"
)

// wanted are the APIServices of this server's own group versions, by name.
func (a *Aggregator) wanted() map[string]*apiregistrationv1.APIService {
	all := map[string]*apiregistrationv1.APIService{}
	for gv, comesAndGoes := range a.cfg.Local() {
		if gv.Group == apiregistrationv1.GroupName {
			continue
		}
		o := local(gv)
		switch {
		case a.cfg.Yielding[gv.Group]: // it is made once
		case comesAndGoes:
			o.Labels = map[string]string{automanaged: always}
		default:
			o.Labels = map[string]string{automanaged: onStart}
		}
		all[o.Name] = o
	}
	return all
}

func local(gv schema.GroupVersion) *apiregistrationv1.APIService {
	rank := discovery.RankOf(gv)
	return &apiregistrationv1.APIService{
		TypeMeta:   metav1.TypeMeta{APIVersion: apiregistrationv1.SchemeGroupVersion.String(), Kind: "APIService"},
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec:       apiregistrationv1.APIServiceSpec{Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: rank.Group, VersionPriority: rank.Version},
	}
}

// step is a write that is to be done. What has changed meanwhile comes again.
type step func(ctx context.Context) error

// register makes the local APIServices as they should be.
func (a *Aggregator) register(ctx context.Context) error {
	var failed error
	for _, do := range a.steps() {
		if err := do(ctx); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			failed = err
		}
	}
	if failed == nil {
		a.mu.Lock()
		a.settled = true
		a.mu.Unlock()
	}
	return failed
}

// steps finds out what has to be written.
func (a *Aggregator) steps() (steps []step) {
	want := a.wanted()
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := func(o *apiregistrationv1.APIService) bool {
		return o.Labels[automanaged] == always || o.Labels[automanaged] == onStart && !a.settled
	}
	for _, name := range a.names() {
		is, wanted := a.services[name], want[name]
		delete(want, name)
		switch {
		case kept(is) && wanted == nil:
			steps = append(steps, func(ctx context.Context) error { return a.cfg.Objects.Delete(ctx, is) })
		case kept(is) && !equality.Semantic.DeepEqual(is.Spec, wanted.Spec):
			steps = append(steps, func(ctx context.Context) error {
				return a.cfg.Objects.Update(ctx, name, func(o *apiregistrationv1.APIService) bool {
					o.Spec = *wanted.Spec.DeepCopy()
					return o.UID == is.UID
				})
			})
		case is.Spec.Service == nil || own(is):
			if c := helper.GetAPIServiceConditionByType(is, apiregistrationv1.Available); c == nil || c.Reason != "Local" {
				steps = append(steps, func(ctx context.Context) error {
					return a.cfg.Objects.UpdateStatus(ctx, name, a.localStatus)
				})
			}
		}
	}
	for _, o := range want {
		if o.Labels[automanaged] == always || !a.settled {
			steps = append(steps, func(ctx context.Context) error { return a.cfg.Objects.Create(ctx, o) })
		}
	}
	return steps
}

// localStatus says that what this server serves is available.
func (a *Aggregator) localStatus(o *apiregistrationv1.APIService) bool {
	if o.Spec.Service != nil && !own(o) {
		return false
	}
	c := helper.NewLocalAvailableAPIServiceCondition()
	c.LastTransitionTime = metav1.Time{Time: a.cfg.Clock.Now()}
	helper.SetAPIServiceCondition(o, c)
	return true
}
