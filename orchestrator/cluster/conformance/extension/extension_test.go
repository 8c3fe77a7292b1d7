package extension

import (
	"maps"
	"testing"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	all := conformance.Behaviours{}
	for _, some := range []conformance.Behaviours{webhooks(), customWebhooks(), configurations(), conversions(), policies(), fieldValidation(), definitions(), fieldSelectors(), publication(), aggregation(), connections()} {
		maps.Copy(all, some)
	}
	conformance.Test(t, all)
}
