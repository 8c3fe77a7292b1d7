package access

import (
	"testing"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// TestAccess runs what can share a cluster.
func TestAccess(t *testing.T) {
	c := clustertest.Start(t)
	for name, run := range map[string]func(t *testing.T, c *clustertest.Cluster){
		"anonymous":          anonymous,
		"client certificate": clientCertificates,
		"bootstrap token":    bootstrapTokens,
		"account token":      accountTokens,
		"bound token":        boundTokens,
		"impersonation":      impersonation,
		"narrow":             narrowImpersonation,
		"default roles":      defaultRoles,
		"aggregated roles":   aggregatedRoles,
		"escalation":         escalation,
		"signers":            signers,
		"kubelet":            kubelet,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, c)
		})
	}
}
