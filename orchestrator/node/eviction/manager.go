package eviction

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Node is what a Manager watches and acts on.
type Node struct {
	// Signals measures what there is of each signal.
	Signals func(ctx context.Context) (map[Signal]Observation, error)
	// Pods are those that hold resources of the node.
	Pods func() []*corev1.Pod
	// Usage measures pods, by UID.
	Usage func(ctx context.Context) (map[types.UID]*stats.PodStats, error)
	// Starving is told before anything is done about a threshold; nil: nobody.
	Starving func(r corev1.ResourceName)
	// Reclaim frees what no pod needs, for a signal of a disk. nil: there is nothing.
	Reclaim func(ctx context.Context, s Signal) error
	// End has a pod fail. It is false if there is none.
	End func(e *Eviction) bool
	// Ended is whether nothing of a pod runs any more.
	Ended func(uid types.UID) bool
}

// Config is what a Manager is made of. Node must be set.
type Config struct {
	Node       Node
	Thresholds []Threshold
	Transition time.Duration // for which pressure lasts after it was seen; 0: 5 min
	MaxGrace   time.Duration // of pods that are evicted for a soft threshold; 0: none
	Clock      clock.Clock
	Logger     *zap.Logger
}

const (
	defaultTransition = 5 * time.Minute
	// lookEvery is the time between two looks at the signals; limitsEvery that between two at the limits of pods, which have their
	// files counted.
	lookEvery   = time.Second
	limitsEvery = 10 * time.Second
	// endPatience is how long the next eviction waits for the last one to have an effect.
	endPatience = 30 * time.Second
	endPoll     = 200 * time.Millisecond
	// fruitless is the pause after nothing could be done about a threshold.
	fruitless = 10 * time.Second
)

// Manager is described in the package comment.
type Manager struct {
	cfg       Config
	core      *Core
	evictions *prometheus.CounterVec

	mu       sync.Mutex
	pressure []corev1.NodeConditionType
}

// New makes a Manager. Run it.
func New(cfg Config) (*Manager, error) {
	n := cfg.Node
	if n.Signals == nil || n.Pods == nil || n.Usage == nil || n.End == nil || n.Ended == nil {
		return nil, errors.New("eviction: signals, pods, their usage, and how they end are needed")
	}
	if cfg.Transition == 0 {
		cfg.Transition = defaultTransition
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Manager{
		cfg: cfg, core: NewCore(cfg.Thresholds, cfg.Transition),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kubelet_evictions", Help: "Pods that were evicted, by what there was too little of."}, []string{"eviction_signal"}),
	}, nil
}

// Metrics count evictions.
func (m *Manager) Metrics() []prometheus.Collector { return []prometheus.Collector{m.evictions} }

// Pressure is what the node is short of, sorted.
func (m *Manager) Pressure() []corev1.NodeConditionType {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pressure
}

// Under is whether the node is under a pressure.
func (m *Manager) Under(c corev1.NodeConditionType) bool { return slices.Contains(m.Pressure(), c) }

// Run watches the node until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	t := m.cfg.Clock.NewTimer(0)
	defer t.Stop()
	var limits time.Time // when the limits of pods are looked at next
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C():
		}
		wait := m.look(ctx)
		if now := m.cfg.Clock.Now(); !now.Before(limits) {
			limits = now.Add(limitsEvery)
			m.holdToLimits(ctx)
		}
		t.Reset(wait)
	}
}

// observe takes a look at the signals.
func (m *Manager) observe(ctx context.Context) (State, bool) {
	seen, err := m.cfg.Node.Signals(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Logger.Warn("what the node has left cannot be measured", zap.Error(err))
		}
		return State{}, false
	}
	s := m.core.Observe(m.cfg.Clock.Now(), seen)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.pressure, s.Pressure) {
		m.cfg.Logger.Info("pressure on the node", zap.String("was", fmt.Sprint(m.pressure)), zap.String("is", fmt.Sprint(s.Pressure)))
	}
	m.pressure = s.Pressure
	return s, true
}

// look acts on the most urgent threshold, and tells after how long to look again.
func (m *Manager) look(ctx context.Context) time.Duration {
	s, ok := m.observe(ctx)
	if !ok || len(s.Due) == 0 {
		return lookEvery
	}
	due := s.Due[0]
	m.cfg.Logger.Warn("the node runs out of something", zap.String("signal", string(due.Signal)), zap.Int64("available", due.Available), zap.Int64("capacity", due.Capacity))
	if about, _ := due.Signal.trait(); m.cfg.Node.Starving != nil {
		m.cfg.Node.Starving(about.resource)
	}
	if due.Signal.Disk() && m.cfg.Node.Reclaim != nil {
		if err := m.cfg.Node.Reclaim(ctx, due.Signal); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("what nobody needs cannot be removed", zap.Error(err))
		}
		if s, ok = m.observe(ctx); !ok || len(s.Due) == 0 {
			return lookEvery
		}
		due = s.Due[0]
	}
	usage, err := m.cfg.Node.Usage(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Logger.Warn("what pods use cannot be measured", zap.Error(err))
		}
		return lookEvery
	}
	e := Choose(due, m.cfg.Node.Pods(), usage, m.cfg.MaxGrace)
	if e == nil || !m.evict(ctx, e) {
		return fruitless
	}
	return lookEvery
}

// holdToLimits ends the pods that keep more on the node's disk than they may.
func (m *Manager) holdToLimits(ctx context.Context) {
	var limited []*corev1.Pod
	for _, p := range m.cfg.Node.Pods() {
		if Limited(p) {
			limited = append(limited, p)
		}
	}
	if len(limited) == 0 {
		return
	}
	usage, err := m.cfg.Node.Usage(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.cfg.Logger.Warn("what pods use cannot be measured", zap.Error(err))
		}
		return
	}
	for _, p := range limited {
		if e := Exceeded(p, usage[p.UID]); e != nil {
			m.end(e)
		}
	}
}

// evict ends a pod and waits until it has ended, for a while: only then it can be told whether that was enough.
func (m *Manager) evict(ctx context.Context, e *Eviction) bool {
	if !m.end(e) {
		return false
	}
	over := m.cfg.Clock.Now().Add(endPatience + e.Grace)
	t := m.cfg.Clock.NewTicker(endPoll)
	defer t.Stop()
	for !m.cfg.Node.Ended(e.Pod.UID) && m.cfg.Clock.Now().Before(over) {
		select {
		case <-t.C():
		case <-ctx.Done():
			return true
		}
	}
	return true
}

func (m *Manager) end(e *Eviction) bool {
	if !m.cfg.Node.End(e) {
		return false
	}
	m.evictions.WithLabelValues(string(e.Signal)).Inc()
	m.cfg.Logger.Warn("a pod is evicted", zap.String("namespace", e.Pod.Namespace), zap.String("pod", e.Pod.Name), zap.String("message", strings.TrimSpace(e.Message)))
	return true
}

// Admit says why a pod is not taken while the node is under pressure, "" if it is.
func (m *Manager) Admit(p *corev1.Pod, bestEffort bool) string {
	pressure := m.Pressure()
	if len(pressure) == 0 || Critical(p) {
		return ""
	}
	if len(pressure) == 1 && pressure[0] == corev1.NodeMemoryPressure && (!bestEffort || tolerates(p)) {
		return ""
	}
	return fmt.Sprintf("The node had condition: %v. ", pressure)
}

// tolerates is whether a pod may come to a node that is short of memory.
func tolerates(p *corev1.Pod) bool {
	taint := &corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
	return slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool {
		return (t.Effect == "" || t.Effect == taint.Effect) && (t.Key == taint.Key || t.Key == "") && (t.Operator == corev1.TolerationOpExists || t.Value == "" && t.Key == taint.Key)
	})
}

// Condition is the one that an evicted pod gets.
func (e *Eviction) Condition() corev1.PodCondition {
	return corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: e.Message}
}
