package aggregate

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// metrics have the names that alerts know from kube-apiserver.
type metrics struct {
	down  *prometheus.GaugeVec   // name
	falls *prometheus.CounterVec // name, reason
}

// newMetrics makes the metrics and enters them; r may be nil.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		down: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "aggregator_unavailable_apiservice", Help: "APIServices: 1 for those that are not available, 0 for the others.",
		}, []string{"name"}),
		falls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aggregator_unavailable_apiservice_total", Help: "How often APIServices became unavailable.",
		}, []string{"name", "reason"}),
	}
	if r == nil {
		return m, nil
	}
	return m, errors.Join(r.Register(m.down), r.Register(m.falls))
}

// changed notes the state of an APIService; old is nil if none was known.
func (m *metrics) changed(old, now *apiregistrationv1.APIService) {
	c := helper.GetAPIServiceConditionByType(now, apiregistrationv1.Available)
	down := 1.0
	if c != nil && c.Status == apiregistrationv1.ConditionTrue {
		down = 0
	}
	m.down.WithLabelValues(now.Name).Set(down)
	if old == nil || down == 0 || !helper.IsAPIServiceConditionTrue(old, apiregistrationv1.Available) {
		return
	}
	reason := "UnknownReason"
	if c != nil && c.Reason != "" {
		reason = c.Reason
	}
	m.falls.WithLabelValues(now.Name, reason).Inc()
}

// gone forgets an APIService.
func (m *metrics) gone(name string) { m.down.DeleteLabelValues(name) }
