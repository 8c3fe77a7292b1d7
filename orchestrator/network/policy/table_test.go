package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// TestTable makes tables of objects.
//
//	set                                              takes note of objects
//	delete kind=pod|namespace|policy name=ns/name    and of their end
//	attach id=a pod=ns/name uid=u addresses=(a,b)    a sandbox, whose link is kpod-a
//	forget id=a                                      and its end
//
// Each writes what it changes of the table.
func TestTable(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newState(dnsAddrs)
		was := lines(newState(dnsAddrs).table())
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			run(t, s, d)
			now := lines(s.table())
			out := changes(was, now)
			was = now
			return out
		})
	})
}

func run(t *testing.T, s *state, d *datadriven.TestData) {
	arg := func(name string) (v string) {
		d.ScanArgs(t, name, &v)
		return v
	}
	switch d.Cmd {
	case "set":
		for doc := range strings.SplitSeq(d.Input, "\n---\n") {
			o, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(doc), nil, nil)
			require.NoError(t, err)
			switch o := o.(type) {
			case *corev1.Pod:
				s.setPod(o)
			case *corev1.Namespace:
				s.setNamespace(o.Name, o.Labels)
			case *networkingv1.NetworkPolicy:
				s.setPolicy(o)
			}
		}
	case "delete":
		name := arg("name")
		switch arg("kind") {
		case "pod":
			s.dropPod(name)
		case "namespace":
			s.dropNamespace(name)
		case "policy":
			ns, name, _ := strings.Cut(name, "/")
			s.dropPolicy(ns, name)
		}
	case "attach":
		ns, name, _ := strings.Cut(arg("pod"), "/")
		p := podnet.Pod{ID: arg("id"), Namespace: ns, Name: name, UID: arg("uid"), Link: "kpod-" + arg("id")}
		for _, x := range d.CmdArgs {
			if x.Key == "addresses" {
				for _, a := range x.Vals {
					p.Addresses = append(p.Addresses, netip.MustParseAddr(a))
				}
			}
		}
		s.attach(p)
	case "forget":
		s.forget(arg("id"))
	default:
		t.Fatalf("no command %s", d.Cmd)
	}
}

// lines are those of a table, each with what it is in. Rules are numbered.
func lines(t *nft.Table) map[string]bool {
	all, section, n := map[string]bool{}, "", 0
	for line := range strings.Lines(t.String()) {
		line = strings.TrimSuffix(line, "\n")
		inner, nested := strings.CutPrefix(line, "  ")
		if !nested {
			section, n = line, 0
			all[section] = true
			continue
		}
		n++
		if strings.HasPrefix(section, "chain") {
			inner = fmt.Sprintf("%d. %s", n, inner)
		}
		all[section+": "+inner] = true
	}
	return all
}

func changes(was, now map[string]bool) string {
	var b strings.Builder
	for _, x := range slices.Sorted(maps.Keys(was)) {
		if !now[x] {
			fmt.Fprintf(&b, "- %s\n", x)
		}
	}
	for _, x := range slices.Sorted(maps.Keys(now)) {
		if !was[x] {
			fmt.Fprintf(&b, "+ %s\n", x)
		}
	}
	if b.Len() == 0 {
		return "nothing\n"
	}
	return b.String()
}

// TestNames are readable, and short enough for the kernel.
func TestNames(t *testing.T) {
	require.Equal(t, "in/x/web/kpod1", chainName("in/", "x", "web/kpod1"))
	long := strings.Repeat("n", 253)
	one, two := chainName("in/", "x", long+"1"), chainName("in/", "x", long+"2")
	require.NotEqual(t, one, two)
	require.LessOrEqual(t, len(one), maxName)
}
