package conformance

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/server/servertest"
)

// rules is a file of Prometheus rules.
type rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Alert       string            `json:"alert"`
			Expr        string            `json:"expr"`
			For         string            `json:"for"`
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"rules"`
	} `json:"groups"`
}

// dashboard is what is looked at of a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		Title   string `json:"title"`
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
}

var metricName = regexp.MustCompile(`\b(?:etcd|keelson|os|process|grpc_server)_[a-z_]+`)

// TestMonitoring finds every metric of the rules and the dashboard of docs/monitoring in a member of three.
func TestMonitoring(t *testing.T) {
	exprs := map[string]string{}
	var alerts rules
	require.NoError(t, yaml.UnmarshalStrict(document(t, "alerts.yml"), &alerts))
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			require.NotEmpty(t, r.Annotations["summary"], r.Alert)
			require.Contains(t, []string{"warning", "critical"}, r.Labels["severity"], r.Alert)
			exprs[r.Alert] = r.Expr
		}
	}
	var d dashboard
	require.NoError(t, json.Unmarshal(document(t, "dashboard.json"), &d))
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			exprs[p.Title+": "+target.Expr] = target.Expr
		}
	}
	addr := servertest.Start(t, 3).Members[0].Client
	exercise(t, addr)
	there := families(t, addr)
	for what, expr := range exprs {
		require.Equal(t, strings.Count(expr, "("), strings.Count(expr, ")"), what)
		names := metricName.FindAllString(expr, -1)
		require.True(t, len(names) > 0 || strings.HasPrefix(expr, "up{"), what)
		for _, n := range names {
			if _, ok := there[n]; ok {
				continue
			}
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				n = strings.TrimSuffix(n, suffix)
			}
			require.Equal(t, "HISTOGRAM", there[n].Type, "%s: no metric, nor part of one: %s", what, n)
		}
	}
}

func document(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../docs/monitoring/" + name)
	require.NoError(t, err)
	return text
}
