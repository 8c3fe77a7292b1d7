package scheduling

import (
	"testing"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, predicates(), preemption(), conformance.Behaviours{
		"LimitRange should create a LimitRange with defaults and ensure pod has those defaults applied.": limitDefaults,
		"LimitRange should list, patch and delete a LimitRange by collection":                            limitCollection,
	})
}
