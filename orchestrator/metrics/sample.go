package metrics

import (
	"fmt"
	"io"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// point is what something had used when it was measured.
type point struct {
	at     time.Time
	begun  time.Time // the zero time: not known
	cpu    float64   // seconds of one processor
	memory float64   // bytes
	// hasCPU and hasMemory say which is known.
	hasCPU, hasMemory bool
}

func (p *point) whole() bool { return p.hasCPU && p.hasMemory }

type podName struct{ namespace, name string }

// sample is what a node told once.
type sample struct {
	node point
	pods map[podName]map[string]*point // by container
}

// parse reads the metrics of a node. now is the time of those without one.
func parse(r io.Reader, now time.Time) (*sample, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	s := &sample{pods: map[podName]map[string]*point{}}
	each := func(name string, do func(m *dto.Metric, v float64, at time.Time)) {
		for _, m := range families[name].GetMetric() {
			at := now
			if m.TimestampMs != nil {
				at = time.UnixMilli(m.GetTimestampMs())
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue() // it is one of them
			do(m, v, at)
		}
	}
	each("node_cpu_usage_seconds_total", func(_ *dto.Metric, v float64, at time.Time) {
		s.node.cpu, s.node.at, s.node.hasCPU = v, at, true
	})
	each("node_memory_working_set_bytes", func(_ *dto.Metric, v float64, _ time.Time) { s.node.memory, s.node.hasMemory = v, true })
	each("container_cpu_usage_seconds_total", func(m *dto.Metric, v float64, at time.Time) {
		if p := s.container(m); p != nil {
			p.cpu, p.at, p.hasCPU = v, at, true
		}
	})
	each("container_memory_working_set_bytes", func(m *dto.Metric, v float64, _ time.Time) {
		if p := s.container(m); p != nil {
			p.memory, p.hasMemory = v, true
		}
	})
	each("container_start_time_seconds", func(m *dto.Metric, v float64, _ time.Time) {
		if p := s.container(m); p != nil {
			p.begun = time.UnixMicro(int64(v * 1e6))
		}
	})
	return s, nil
}

// container is the point of the container that a metric is about, nil if it is about none.
func (s *sample) container(m *dto.Metric) *point {
	of := map[string]string{}
	for _, l := range m.GetLabel() {
		of[l.GetName()] = l.GetValue()
	}
	pod, name := podName{of["namespace"], of["pod"]}, of["container"]
	if pod.namespace == "" || pod.name == "" || name == "" {
		return nil
	}
	if s.pods[pod] == nil {
		s.pods[pod] = map[string]*point{}
	}
	if s.pods[pod][name] == nil {
		s.pods[pod][name] = &point{}
	}
	return s.pods[pod][name]
}
