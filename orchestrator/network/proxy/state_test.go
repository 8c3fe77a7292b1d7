package proxy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// shown are the words of an element's key and value.
func shown(set string, e nft.Element) string {
	f, name := nft.IPv6, set
	if n, ok := strings.CutSuffix(set, "4"); ok {
		f, name = nft.IPv4, n
	}
	name = strings.TrimSuffix(name, "6")
	shapes := map[string]string{
		"services": "app", "unserved": "app", "nodeports": "pp", "unserved-nodeports": "pp", "endpoints": "appn", "live": "appap", "livelocal": "appap",
		"clusterips": "a", "hairpin": "aa", "cluster": "a", "own": "a", "ranges": "a", "nodeaddresses": "a",
	}
	out := words(shapes[name], f, e.Key)
	if e.Last != nil {
		out += "-" + words(shapes[name], f, e.Last)
	}
	if e.Value != nil {
		out += " : " + words("ap", f, e.Value)
	}
	if e.Goto != "" {
		out += " : goto " + e.Goto
	}
	return out
}

// words reads a key: addresses, ports or protocols, numbers.
func words(shape string, f nft.Family, b []byte) string {
	var out []string
	for _, c := range shape {
		n := 4
		if c == 'a' {
			n = f.Len()
		}
		part := b[:n]
		b = b[n:]
		switch {
		case c == 'a':
			a, _ := netip.AddrFromSlice(part)
			out = append(out, a.String())
		case c == 'n':
			out = append(out, fmt.Sprint(binary.NativeEndian.Uint32(part)))
		case part[1] == 0 && part[0] != 0 && len(out) < 2:
			out = append(out, map[byte]string{6: "tcp", 17: "udp", 132: "sctp"}[part[0]])
		default:
			out = append(out, fmt.Sprint(binary.BigEndian.Uint16(part)))
		}
	}
	return strings.Join(out, " . ")
}

// told are the lines of a patch, against the table that it changes.
func told(t *nft.Table, p *nft.Patch) string {
	var lines []string
	for name, c := range p.Chains {
		if c == nil {
			lines = append(lines, "- chain "+name+"\n")
			continue
		}
		text := "+ chain " + name + "\n"
		for _, r := range c.Rules {
			text += "    " + r.String() + "\n"
		}
		lines = append(lines, text)
	}
	for set, all := range p.Elements {
		for id, e := range all {
			if e == nil {
				lines = append(lines, fmt.Sprintf("- %s %s\n", set, shown(set, t.Sets[set].Elements[id])))
			} else {
				lines = append(lines, fmt.Sprintf("+ %s %s\n", set, shown(set, *e)))
			}
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:]+a[:1], b[2:]+b[:1]) })
	return strings.Join(lines, "")
}

// TestChanges runs scripts: objects in, changes of the table out.
func TestChanges(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *State
		var table *nft.Table
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if s == nil {
				s = newState("here", surroundings{ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}})
				table = s.Table()
			}
			switch d.Cmd {
			case "frame":
				return s.frame.String()
			case "service", "no-service":
				for _, o := range read[corev1.Service](t, d.Input) {
					if d.Cmd == "service" {
						s.SetService(o)
					} else {
						s.DropService(o)
					}
				}
			case "slice", "no-slice":
				for _, o := range read[discoveryv1.EndpointSlice](t, d.Input) {
					if d.Cmd == "slice" {
						s.SetSlice(o)
					} else {
						s.DropSlice(o)
					}
				}
			case "node":
				for _, o := range read[corev1.Node](t, d.Input) {
					s.SetNode(o)
				}
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			if d.HasArg("more") {
				return ""
			}
			c := s.Change()
			out := told(table, c.Patch)
			for _, f := range c.flows {
				out += fmt.Sprintf("flows of udp %v port %d may go to %v\n", f.addresses, f.port, f.to)
			}
			if c.health {
				out += fmt.Sprintf("health checks %+v\n", s.checks())
			}
			c.Patch.Apply(table)
			require.Equal(t, s.Table().String(), table.String())
			if out == "" {
				return "nothing\n"
			}
			return out
		})
	})
}

// read reads YAML documents. What has no namespace is in default.
func read[T any](t *testing.T, text string) (all []*T) {
	for _, doc := range bytes.Split([]byte(text), []byte("\n---\n")) {
		o := new(T)
		require.NoError(t, yaml.UnmarshalStrict(doc, o), string(doc))
		if m, ok := any(o).(metav1.Object); ok && m.GetNamespace() == "" {
			m.SetNamespace("default")
		}
		all = append(all, o)
	}
	return all
}
