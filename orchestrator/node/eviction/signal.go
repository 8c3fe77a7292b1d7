package eviction

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something that a node can run out of.
type Signal string

// The signals.
const (
	MemoryAvailable   Signal = "memory.available"
	PodMemory         Signal = "allocatableMemory.available" // of what all pods may use together
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PIDAvailable      Signal = "pid.available"
)

// Resources that no API object counts.
const (
	resourceInodes corev1.ResourceName = "inodes"
	resourcePids   corev1.ResourceName = "pids"
)

// trait is what a signal is about. Memory is freed before anything else, as a node without it stands still.
type trait struct {
	resource  corev1.ResourceName
	condition corev1.NodeConditionType
	order     int
}

func (s Signal) trait() (trait, bool) {
	switch s {
	case MemoryAvailable, PodMemory:
		return trait{corev1.ResourceMemory, corev1.NodeMemoryPressure, 0}, true
	case PIDAvailable:
		return trait{resourcePids, corev1.NodePIDPressure, 1}, true
	case NodeFsAvailable, ImageFsAvailable:
		return trait{corev1.ResourceEphemeralStorage, corev1.NodeDiskPressure, 2}, true
	case NodeFsInodesFree, ImageFsInodesFree:
		return trait{resourceInodes, corev1.NodeDiskPressure, 2}, true
	}
	return trait{}, false
}

// Disk is whether a signal is about a file system.
func (s Signal) Disk() bool {
	t, _ := s.trait()
	return t.condition == corev1.NodeDiskPressure
}

// Value is an amount, or a share of all there is.
type Value struct {
	Quantity resource.Quantity
	Percent  float64 // if it is not 0
}

// of is the amount when there is so much in all.
func (v Value) of(capacity int64) int64 {
	if v.Percent != 0 {
		return int64(float64(capacity) * v.Percent / 100)
	}
	return v.Quantity.Value()
}

// parseValue reads "100Mi" or "10%". nothing: the value switches its threshold off.
func parseValue(text string) (v Value, nothing bool, err error) {
	if text == "0%" || text == "100%" {
		return v, true, nil
	}
	if share, ok := strings.CutSuffix(text, "%"); ok {
		v.Percent, err = strconv.ParseFloat(share, 64)
		if err != nil || v.Percent <= 0 || v.Percent > 100 {
			return v, false, fmt.Errorf("eviction: %q is no percentage between 0 and 100", text)
		}
		return v, false, nil
	}
	if v.Quantity, err = resource.ParseQuantity(text); err != nil || v.Quantity.Sign() < 0 {
		return v, false, fmt.Errorf("eviction: %q is neither a quantity nor a percentage", text)
	}
	return v, false, nil
}

// Threshold is the amount of a signal below which pods are evicted.
type Threshold struct {
	Signal  Signal
	Value   Value
	Grace   time.Duration // for which it has to be met; 0: a hard threshold
	Reclaim Value         // how much more is freed once it was met
}

// Settings are thresholds as the kubelet's flags say them, by signal.
type Settings struct {
	Hard, Soft, SoftGrace, MinReclaim map[string]string
}

// Defaults are the hard thresholds of a node that says nothing.
func Defaults() map[string]string {
	return map[string]string{
		string(MemoryAvailable): "100Mi", string(NodeFsAvailable): "10%", string(NodeFsInodesFree): "5%", string(ImageFsAvailable): "15%", string(ImageFsInodesFree): "5%",
	}
}

// Thresholds reads settings.
func Thresholds(s Settings) (out []Threshold, err error) {
	reclaim := map[Signal]Value{}
	for name, text := range s.MinReclaim {
		v, _, err := parseValue(text)
		if err != nil {
			return nil, err
		}
		reclaim[Signal(name)] = v
	}
	grace := map[Signal]time.Duration{}
	for name, text := range s.SoftGrace {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("eviction: grace period %q of %s: want a duration such as 1m30s", text, name)
		}
		grace[Signal(name)] = d
	}
	hard, err := thresholds(s.Hard, nil, reclaim)
	if err != nil {
		return nil, err
	}
	soft, err := thresholds(s.Soft, grace, reclaim)
	return slices.Concat(hard, soft), err
}

func thresholds(texts map[string]string, grace map[Signal]time.Duration, reclaim map[Signal]Value) (out []Threshold, err error) {
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		s := Signal(name)
		if _, known := s.trait(); !known {
			return nil, fmt.Errorf("eviction: there is no signal %q", name)
		}
		v, nothing, err := parseValue(texts[name])
		if err != nil {
			return nil, err
		}
		if nothing {
			continue
		}
		t := Threshold{Signal: s, Value: v, Grace: grace[s], Reclaim: reclaim[s]}
		if grace != nil && t.Grace == 0 {
			return nil, errors.New("eviction: the soft threshold of " + name + " needs a grace period")
		}
		out = append(out, t)
		if s == MemoryAvailable && t.Grace == 0 { // what it keeps free of the node is kept free of the pods' part of it, too
			t.Signal = PodMemory
			out = append(out, t)
		}
	}
	return out, nil
}

// Reserved is what hard thresholds keep from pods, of what a node has: memory and the node's disk.
func Reserved(all []Threshold, capacity corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, t := range all {
		name := map[Signal]corev1.ResourceName{MemoryAvailable: corev1.ResourceMemory, NodeFsAvailable: corev1.ResourceEphemeralStorage}[t.Signal]
		if name == "" || t.Grace != 0 {
			continue
		}
		have := capacity[name]
		out[name] = *resource.NewQuantity(t.Value.of(have.Value()), resource.BinarySI)
	}
	return out
}

// Observation is how much there is of a signal, and how much of that is left, in its unit: bytes, inodes or processes.
type Observation struct{ Available, Capacity int64 }

// Met is a threshold that has to be acted on.
type Met struct {
	Threshold
	Observation
}

// byOrder sorts the thresholds that have to be acted on: memory first, hard before soft.
func byOrder(a, b Met) int {
	x, _ := a.Signal.trait()
	y, _ := b.Signal.trait()
	return cmp.Or(cmp.Compare(x.order, y.order), cmp.Compare(a.Grace, b.Grace), cmp.Compare(a.Signal, b.Signal))
}
