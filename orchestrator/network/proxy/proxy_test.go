package proxy

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const (
	vip4 = "10.96.0.5"
	vip6 = "fd00:96::5"
	lb4  = "198.51.100.9"
	lb6  = "2001:db8:1::9"
)

func both(t corev1.ServiceType) corev1.ServiceSpec {
	return corev1.ServiceSpec{Type: t, ClusterIPs: []string{vip4, vip6}}
}

// Pods and the node reach a service by its cluster IP; a pod sees another pod under its own address.
func TestClusterIP(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.service("web", both(corev1.ServiceTypeClusterIP))
	a := w.pods["a"]
	w.refused(a.NetNS, vip4, 80)
	w.refused(w.node, vip6, 80)
	w.endpoints("web", "b", "c", "d")
	w.answers(a.NetNS, vip4, 80, "bcd", a.v4.String())
	w.answers(a.NetNS, vip6, 80, "bcd", a.v6.String())
	w.answers(w.node, vip4, 80, "bcd")
	w.answers(w.node, vip6, 80, "bcd")
	w.answers(w.outside, vip4, 80, "bcd", node4.String(), gateways[0].String())
	w.refused(a.NetNS, vip4, 81) // another port
	w.silent(a.NetNS, "10.96.0.6", 80)
	w.endpoints("web", "b-", "c~", "d-") // none is ready, one still serves
	w.answers(a.NetNS, vip4, 80, "c")
	w.answers(w.node, vip6, 80, "c")
	w.endpoints("web")
	w.refused(a.NetNS, vip4, 80)
	w.refused(w.node, vip4, 80)
}

// A pod reaches itself by its service: its answers come back by way of the node.
func TestHairpin(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.service("web", both(corev1.ServiceTypeNodePort))
	w.endpoints("web", "a")
	a := w.pods["a"]
	w.answers(a.NetNS, vip4, 80, "a", gateways[0].String(), node4.String())
	w.answers(a.NetNS, vip6, 80, "a", gateways[1].String(), node6.String())
	w.answers(a.NetNS, node4.String(), 30080, "a")
}

// A node port answers on the node's addresses, and not on loopback.
func TestNodePort(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.service("web", both(corev1.ServiceTypeNodePort))
	w.refused(w.outside, node4.String(), 30080)
	w.endpoints("web", "b", "d")
	masqueraded := []string{node4.String(), node6.String(), gateways[0].String(), gateways[1].String()}
	w.answers(w.outside, node4.String(), 30080, "bd", masqueraded...)
	w.answers(w.outside, node6.String(), 30080, "bd", masqueraded...)
	w.answers(w.node, node4.String(), 30080, "bd")
	w.answers(w.pods["a"].NetNS, node6.String(), 30080, "bd")
	w.refused(w.node, "127.0.0.1", 30080)
	w.refused(w.node, "::1", 30080)
}

// Under the policy Local, endpoints of this node see the client's address, and there are no others; pods and the node
// still reach all.
func TestExternalTrafficPolicyLocal(t *testing.T) {
	w := newWorld(t)
	w.serve()
	spec := both(corev1.ServiceTypeLoadBalancer)
	spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	spec.HealthCheckNodePort = 32123
	w.service("web", spec, lb4, lb6)
	w.endpoints("web", "b", "d")
	w.answers(w.outside, node4.String(), 30080, "b", out4.String())
	w.answers(w.outside, lb4, 80, "b", out4.String())
	w.answers(w.outside, lb6, 80, "b", out6.String())
	w.answers(w.pods["a"].NetNS, lb4, 80, "bd", w.pods["a"].v4.String())
	w.answers(w.node, lb4, 80, "bd")
	check := func(status, local int) {
		t.Helper()
		w.eventually(func() error {
			var a answer
			var code int
			err := w.outside.Do(func() error {
				c, err := net.Dial("tcp", net.JoinHostPort(node4.String(), "32123"))
				if err != nil {
					return err
				}
				tr := &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return c, nil }}
				r, err := (&http.Client{Transport: tr}).Get("http://node/healthz")
				if err != nil {
					return err
				}
				defer func() { _ = r.Body.Close() }()
				code = r.StatusCode
				return json.NewDecoder(r.Body).Decode(&a)
			})
			if err == nil && (code != status || a.LocalEndpoints != local || a.Service.Name != "web" || a.Service.Namespace != "default" || !a.ServiceProxyHealthy) {
				err = fmt.Errorf("status %d, %+v", code, a)
			}
			return err
		})
	}
	check(200, 1)
	w.endpoints("web", "b~", "d")
	w.answers(w.outside, lb4, 80, "b", out4.String())
	check(503, 0)
	w.endpoints("web", "d")
	w.silent(w.outside, lb4, 80)
	w.silent(w.outside, node6.String(), 30080)
	w.answers(w.node, lb6, 80, "d")
	w.endpoints("web")
	w.refused(w.outside, lb4, 80)
}

func TestLoadBalancerSourceRanges(t *testing.T) {
	w := newWorld(t)
	w.serve()
	spec := both(corev1.ServiceTypeLoadBalancer)
	spec.LoadBalancerSourceRanges = []string{"192.0.2.2/32", "10.244.0.0/16"}
	spec.ExternalIPs = []string{"198.51.100.10"}
	w.service("web", spec, lb4)
	w.endpoints("web", "b")
	w.answers(w.outside, lb4, 80, "b")
	w.answers(w.pods["a"].NetNS, lb4, 80, "b")
	spec.LoadBalancerSourceRanges = []string{"192.0.2.0/31"}
	w.service("web", spec, lb4)
	w.silent(w.outside, lb4, 80)
	w.answers(w.outside, "198.51.100.10", 80, "b")
	w.answers(w.outside, node4.String(), 30080, "b")
}

func TestInternalTrafficPolicyLocal(t *testing.T) {
	w := newWorld(t)
	w.serve()
	spec := both(corev1.ServiceTypeClusterIP)
	spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	w.service("web", spec)
	w.endpoints("web", "b", "d")
	w.answers(w.pods["a"].NetNS, vip4, 80, "b")
	w.answers(w.node, vip6, 80, "b")
	w.endpoints("web", "d")
	w.silent(w.pods["a"].NetNS, vip4, 80)
}

// A client stays with an endpoint until the time is over, or until the endpoint is gone.
func TestSessionAffinity(t *testing.T) {
	w := newWorld(t)
	w.serve()
	spec := both(corev1.ServiceTypeNodePort)
	spec.SessionAffinity = corev1.ServiceAffinityClientIP
	w.service("web", spec)
	w.endpoints("web", "b", "c", "d")
	for _, x := range []struct {
		from *pod
		to   string
		port int
	}{{w.pods["a"], vip4, 80}, {w.pods["a"], vip6, 80}, {w.pods["b"], vip4, 80}, {&pod{NetNS: w.outside}, node6.String(), 30080}} {
		var first string
		w.eventually(func() (err error) {
			first, _, err = ask(x.from.NetNS, "tcp", x.to, x.port)
			return err
		})
		for range 20 {
			who, _, err := ask(x.from.NetNS, "tcp", x.to, x.port)
			require.NoError(t, err)
			require.Equal(t, first, who)
		}
	}
	// Its endpoint goes: it gets another one, and stays with that.
	first, _, err := ask(w.pods["a"].NetNS, "tcp", vip4, 80)
	require.NoError(t, err)
	var rest []string
	for _, name := range []string{"b", "c", "d"} {
		if name != first {
			rest = append(rest, name)
		}
	}
	w.endpoints("web", rest...)
	var second string
	w.eventually(func() (err error) {
		if second, _, err = ask(w.pods["a"].NetNS, "tcp", vip4, 80); err == nil && second == first {
			err = fmt.Errorf("%s still answers", first)
		}
		return err
	})
	w.endpoints("web", "b", "c", "d")
	for range 20 {
		who, _, err := ask(w.pods["a"].NetNS, "tcp", vip4, 80)
		require.NoError(t, err)
		require.Equal(t, second, who)
	}
	// Another proxy, which writes the table anew, remembers it.
	for range 5 {
		w.stop()
		w.start()
		who, _, err := ask(w.pods["a"].NetNS, "tcp", vip4, 80)
		require.NoError(t, err)
		require.Equal(t, second, who)
	}
	// With a short time, it is forgotten.
	spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(int32(1))}}
	w.service("web", spec)
	w.eventually(func() error {
		if who, _, err := ask(w.pods["a"].NetNS, "tcp", vip4, 80); err != nil || who != second {
			return nil
		}
		time.Sleep(1200 * time.Millisecond)
		return fmt.Errorf("still %s", second)
	})
}

// A client that keeps its UDP port reaches another endpoint when its own is gone, and one that asked before there was any.
func TestUDPFlowsAreForgotten(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.service("web", both(corev1.ServiceTypeNodePort))
	for _, to := range []string{vip4, vip6, node4.String()} {
		w.endpoints("web")
		port := "80"
		if to == node4.String() {
			port = "30080"
		}
		var c net.Conn
		require.NoError(t, w.pods["a"].Do(func() (err error) {
			c, err = net.Dial("udp", net.JoinHostPort(to, port))
			return err
		}))
		defer func() { _ = c.Close() }()
		var who, saw string
		for _, name := range []string{"b", "c", "d"} {
			w.endpoints("web", name)
			w.eventually(func() error {
				if err := exchange(c, "udp", &who, &saw); err != nil {
					return err
				}
				if who != name {
					return fmt.Errorf("%s by %s: %s answers, not %s", to, c.LocalAddr(), who, name)
				}
				return nil
			})
		}
	}
}

// Whoever wipes the table, it comes back.
func TestRepair(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.service("web", both(corev1.ServiceTypeClusterIP))
	w.endpoints("web", "b")
	w.answers(w.pods["a"].NetNS, vip4, 80, "b")
	f, err := netns.GetFromPath(w.node.Path())
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	conn, err := nftables.New(nftables.WithNetNSFd(int(f)))
	require.NoError(t, err)
	conn.FlushRuleset()
	require.NoError(t, conn.Flush())
	w.answers(w.pods["a"].NetNS, vip4, 80, "b")
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	conn.FlushChain(&nftables.Chain{Name: "svc6/default/web/tcp/80", Table: table})
	require.NoError(t, conn.Flush())
	w.answers(w.pods["a"].NetNS, vip6, 80, "b")
	// A change on top of a table that is gone.
	conn.FlushRuleset()
	require.NoError(t, conn.Flush())
	w.endpoints("web", "c")
	w.answers(w.pods["a"].NetNS, vip4, 80, "c")
	// Another proxy finds the table of the one before, and what changed meanwhile.
	w.stop()
	w.endpoints("web", "d")
	w.answers(w.pods["a"].NetNS, vip4, 80, "c")
	w.start()
	w.answers(w.pods["a"].NetNS, vip4, 80, "d")
	require.NoError(t, w.proxy.Remove())
}

// A health check whose port somebody else has does not make the proxy unwell, and is served once the port is free.
func TestHealthCheckPortIsTaken(t *testing.T) {
	w := newWorld(t)
	w.serve()
	var taken net.Listener
	require.NoError(t, w.node.Do(func() (err error) {
		taken, err = net.Listen("tcp", ":32124")
		return err
	}))
	spec := both(corev1.ServiceTypeLoadBalancer)
	spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	spec.HealthCheckNodePort = 32124
	w.service("web", spec, lb4)
	w.endpoints("web", "b")
	w.answers(w.outside, lb4, 80, "b")
	require.NoError(t, w.proxy.Healthy())
	require.NoError(t, taken.Close())
	w.eventually(func() error {
		return w.outside.Do(func() error {
			c, err := net.Dial("tcp", net.JoinHostPort(node4.String(), "32124"))
			if err == nil {
				err = c.Close()
			}
			return err
		})
	})
}
