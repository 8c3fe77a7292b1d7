package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/kubernetes"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/server/servertest"
)

// behaviour is one of the names, and what shows that it is held.
type behaviour struct {
	name string
	run  func(t *testing.T, e *env)
}

// areas are all behaviours that are held, by area.
func areas() map[string][]behaviour {
	return map[string][]behaviour{
		"sig-api-machinery": apiMachinery(),
	}
}

// env is what a behaviour works with.
type env struct {
	*clustertest.Cluster
	client *kubernetes.Clientset
	// ns is a namespace of its own.
	ns  string
	ctx context.Context
}

// patience bounds a behaviour. It is generous: machines that run tests are busy.
const patience = 3 * time.Minute

func TestConformance(t *testing.T) {
	t.Run("keelson", func(t *testing.T) { suite(t, clustertest.Start(t)) })
	t.Run("etcd", func(t *testing.T) {
		etcd := servertest.New(t, 1)
		etcd.RunProgram(etcd.Members[0], servertest.Oracle(t, "etcd"))
		etcd.WaitReady(etcd.Members...)
		suite(t, clustertest.Start(t, clustertest.Store(etcd.Addrs()...)))
	})
}

func suite(t *testing.T, c *clustertest.Cluster) {
	for _, alone := range []bool{false, true} {
		// The group ends when all of its parallel tests have.
		t.Run(map[bool]string{false: "together", true: "alone"}[alone], func(t *testing.T) {
			for area, behaviours := range areas() {
				for _, b := range behaviours {
					if serial(b.name) == alone {
						t.Run(area+"/"+b.name, func(t *testing.T) {
							if !alone {
								t.Parallel()
							}
							one(t, c, b)
						})
					}
				}
			}
		})
	}
}

func serial(name string) bool {
	return strings.Contains(name, "[Serial]") || strings.Contains(name, "[Disruptive]")
}

func one(t *testing.T, c *clustertest.Cluster, b behaviour) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b.run(t, &env{Cluster: c, client: c.Client(t, nil), ns: c.Namespace(t), ctx: ctx})
}

var update = flag.Bool("update", false, "rewrite docs/conformance.md")

const (
	root      = "../../.."
	tablePath = root + "/docs/conformance.md"
)

// row is a line of the table: | name | held or open | file or reason |
var row = regexp.MustCompile(`^\| (.+) \| (held|open) \| (.*) \|$`)

// names is how many behaviours there are.
const names = 462

func TestTable(t *testing.T) {
	held := holders(t)
	b, err := os.ReadFile(tablePath)
	require.NoError(t, err)
	lines := strings.Split(string(b), "\n")
	seen := map[string]int{}
	for i, line := range lines {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		seen[m[1]]++
		want := fmt.Sprintf("| %s | open | %s |", m[1], m[3])
		if by := held[m[1]]; by != "" {
			want = fmt.Sprintf("| %s | held | %s |", m[1], by)
		} else if m[2] == "held" {
			want = fmt.Sprintf("| %s | open | |", m[1])
		}
		if *update {
			lines[i] = want
		} else if line != want {
			t.Errorf("docs/conformance.md is not up to date: run go test -run TestTable -update\n got %s\nwant %s", line, want)
		}
	}
	for name, by := range held {
		if seen[name] == 0 {
			t.Errorf("%s has a behaviour that there is not: %q", by, name)
		}
	}
	total := 0
	for _, n := range seen {
		total += n
	}
	require.Equal(t, names, total, "names in the table")
	if *update {
		require.NoError(t, os.WriteFile(tablePath, []byte(strings.Join(lines, "\n")), 0o644))
	}
}

// entry is an entry of a list of behaviours, here and in the module peers: {"name", function}.
var entry = regexp.MustCompile(`(?m)^\s*\{"(.+)", \w+(?:\(.*\))?\},$`)

// holders finds which file holds a name.
func holders(t *testing.T) map[string]string {
	out := map[string]string{}
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	others, err := filepath.Glob(root + "/peers/kubectl/*_test.go")
	require.NoError(t, err)
	for _, f := range slices.Concat(files, others) {
		src, err := os.ReadFile(f)
		require.NoError(t, err)
		abs, err := filepath.Abs(f)
		require.NoError(t, err)
		base, err := filepath.Abs(root)
		require.NoError(t, err)
		rel, err := filepath.Rel(base, abs)
		require.NoError(t, err)
		for _, m := range entry.FindAllStringSubmatch(string(src), -1) {
			if other := out[m[1]]; other != "" {
				t.Errorf("%q is in %s and in %s", m[1], other, rel)
			}
			out[m[1]] = filepath.ToSlash(rel)
		}
	}
	return out
}
