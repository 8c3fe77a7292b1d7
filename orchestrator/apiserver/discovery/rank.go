package discovery

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Rank is the place of a group version: groups of the highest rank come first, and in a group its versions of the highest.
// It is what the object APIService of the group version says.
type Rank struct{ Group, Version int32 }

// Aggregated is what is not of this server's own kinds. The zero value is nothing.
type Aggregated struct {
	// Ranks are those that differ from RankOf.
	Ranks map[schema.GroupVersion]Rank
	// Remote are the group versions that other servers serve, whatever this one has.
	Remote map[schema.GroupVersion]Remote
}

// Remote is a group version that another server serves.
type Remote struct {
	Resources []metav1.APIResource
	Stale     bool // the server does not answer: this is what it said before
}

func (a *Aggregated) rank(gv schema.GroupVersion) Rank {
	if r, ok := a.Ranks[gv]; ok {
		return r
	}
	return RankOf(gv)
}

// groupRanks are the ranks of Kubernetes' groups. Clients look for a short name in the first groups first.
var groupRanks = map[string]int32{
	"apiregistration.k8s.io": 20001, // before all that objects can say
	"":                       18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "admissionregistration.k8s.io": 16700, "apiextensions.k8s.io": 16700,
	"scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300, "discovery.k8s.io": 16200, "resource.k8s.io": 16200,
	"flowcontrol.apiserver.k8s.io": 16100, "internal.apiserver.k8s.io": 16000, "storagemigration.k8s.io": 15800, "lifecycle.k8s.io": 15700,
}

// versionRanks are those that differ from the rule.
var versionRanks = map[schema.GroupVersion]int32{
	{Version: "v1"}: 1, {Group: "autoscaling", Version: "v2"}: 30, {Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: 21,
	{Group: "resource.k8s.io", Version: "v1"}: 21, {Group: "lifecycle.k8s.io", Version: "v1alpha1"}: 1,
}

// RankOf is the rank of a group version of which nobody says anything else. Groups of custom resources are after Kubernetes' own.
func RankOf(gv schema.GroupVersion) Rank {
	r := Rank{Group: groupRanks[gv.Group], Version: versionRanks[gv]}
	switch {
	case r.Group == 0:
		return Rank{Group: 1000, Version: 100}
	case r.Version != 0:
	case gv.Version == "v1":
		r.Version = 15
	default:
		r.Version = 9
	}
	return r
}
