package config

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DefaultPreemptionArgs bound on how many nodes preemption is tried.
type DefaultPreemptionArgs struct {
	metav1.TypeMeta             `json:",inline"`
	MinCandidateNodesPercentage *int32 `json:"minCandidateNodesPercentage,omitempty"`
	MinCandidateNodesAbsolute   *int32 `json:"minCandidateNodesAbsolute,omitempty"`
}

// InterPodAffinityArgs weigh the required affinity of pods that already run.
type InterPodAffinityArgs struct {
	metav1.TypeMeta                    `json:",inline"`
	HardPodAffinityWeight              *int32 `json:"hardPodAffinityWeight,omitempty"`
	IgnorePreferredTermsOfExistingPods bool   `json:"ignorePreferredTermsOfExistingPods"`
}

// NodeAffinityArgs add an affinity to that of every pod.
type NodeAffinityArgs struct {
	metav1.TypeMeta `json:",inline"`
	AddedAffinity   *v1.NodeAffinity `json:"addedAffinity,omitempty"`
}

// NodeResourcesFitArgs say what to leave out of account, and how to score.
type NodeResourcesFitArgs struct {
	metav1.TypeMeta       `json:",inline"`
	IgnoredResources      []string         `json:"ignoredResources,omitempty"`
	IgnoredResourceGroups []string         `json:"ignoredResourceGroups,omitempty"`
	ScoringStrategy       *ScoringStrategy `json:"scoringStrategy,omitempty"`
}

// NodeResourcesBalancedAllocationArgs say which resources to balance.
type NodeResourcesBalancedAllocationArgs struct {
	metav1.TypeMeta `json:",inline"`
	Resources       []ResourceSpec `json:"resources,omitempty"`
}

// The values of PodTopologySpreadArgs.DefaultingType.
const (
	SystemDefaulting = "System"
	ListDefaulting   = "List"
)

// PodTopologySpreadArgs are the constraints of pods that have none of their own.
type PodTopologySpreadArgs struct {
	metav1.TypeMeta    `json:",inline"`
	DefaultConstraints []v1.TopologySpreadConstraint `json:"defaultConstraints,omitempty"`
	DefaultingType     string                        `json:"defaultingType,omitempty"`
}

// VolumeBindingArgs bound how long a pod waits for its volumes.
type VolumeBindingArgs struct {
	metav1.TypeMeta `json:",inline"`
	// BindTimeoutSeconds is 600 by default; 0 does not wait at all.
	BindTimeoutSeconds *int64 `json:"bindTimeoutSeconds,omitempty"`
}

// The values of ScoringStrategy.Type.
const (
	LeastAllocated           = "LeastAllocated"
	MostAllocated            = "MostAllocated"
	RequestedToCapacityRatio = "RequestedToCapacityRatio"
)

// ScoringStrategy says how the use of a node's resources becomes a score.
type ScoringStrategy struct {
	Type                     string              `json:"type,omitempty"`
	Resources                []ResourceSpec      `json:"resources,omitempty"`
	RequestedToCapacityRatio *CapacityRatioShape `json:"requestedToCapacityRatio,omitempty"`
}

// CapacityRatioShape is the score as a function of utilization, linear between points.
type CapacityRatioShape struct {
	Shape []ShapePoint `json:"shape,omitempty"`
}

// ShapePoint is the score, 0..10, at a utilization, 0..100.
type ShapePoint struct {
	Utilization int32 `json:"utilization"`
	Score       int32 `json:"score"`
}

// ResourceSpec is a resource with its weight among others.
type ResourceSpec struct {
	Name   string `json:"name"`
	Weight int64  `json:"weight,omitempty"`
}

// newArgs returns a pointer to the empty arguments of a plugin, or nil if it has none that are known.
func newArgs(plugin string) any {
	switch plugin {
	case DefaultPreemption:
		return &DefaultPreemptionArgs{}
	case InterPodAffinity:
		return &InterPodAffinityArgs{}
	case NodeAffinity:
		return &NodeAffinityArgs{}
	case NodeResourcesFit:
		return &NodeResourcesFitArgs{}
	case NodeResourcesBalancedAllocation:
		return &NodeResourcesBalancedAllocationArgs{}
	case PodTopologySpread:
		return &PodTopologySpreadArgs{}
	case VolumeBinding:
		return &VolumeBindingArgs{}
	}
	return nil
}

func typeOf(args any) metav1.TypeMeta {
	switch a := args.(type) {
	case *DefaultPreemptionArgs:
		return a.TypeMeta
	case *InterPodAffinityArgs:
		return a.TypeMeta
	case *NodeAffinityArgs:
		return a.TypeMeta
	case *NodeResourcesFitArgs:
		return a.TypeMeta
	case *NodeResourcesBalancedAllocationArgs:
		return a.TypeMeta
	case *PodTopologySpreadArgs:
		return a.TypeMeta
	case *VolumeBindingArgs:
		return a.TypeMeta
	}
	return metav1.TypeMeta{}
}
