package policy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// enforcer is one of a namespace, whose informers start when they are told to.
func enforcer(t *testing.T, ns *testkit.NetNS, client *fake.Clientset, r prometheus.Registerer) (e *Enforcer, start func()) {
	t.Helper()
	f := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(Trim))
	e, err := New(Config{Pods: f.Core().V1().Pods().Informer(), Namespaces: f.Core().V1().Namespaces().Informer(), Policies: f.Networking().V1().NetworkPolicies().Informer(), NetNS: ns.Path(), Registerer: r})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		f.Shutdown()
		require.NoError(t, e.Close())
	})
	return e, func() { f.Start(ctx.Done()) }
}

func elements(t *testing.T, ns *testkit.NetNS, table, set string) (names []string) {
	t.Helper()
	found, err := inTable(ns, table, set)
	require.NoError(t, err)
	for name := range found {
		names = append(names, name)
	}
	return names
}

func inTable(ns *testkit.NetNS, table, set string) (map[string]bool, error) {
	f, err := os.Open(ns.Path())
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return linksOf(int(f.Fd()), table, set)
}

// TestAdmitWaits has a pod whose object comes while it is admitted: it gets its own rules, not those of nobody.
func TestAdmitWaits(t *testing.T) {
	ns := testkit.NewNetNS(t)
	open := deny("x", networkingv1.PolicyTypeIngress)
	client := fake.NewClientset(open)
	r := prometheus.NewRegistry()
	e, start := enforcer(t, ns, client, r)
	e.patience = time.Minute
	p := podnet.Pod{ID: "1", Namespace: "x", Name: "a", UID: "u", Link: "kpod1", Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.2")}}
	done := make(chan error)
	go func() { done <- e.Admit(context.Background(), p) }()
	cutOff := func(table string) {
		eventually(t, func() error {
			if all, err := inTable(ns, table, links[egress]); err != nil || !all["kpod1"] {
				return fmt.Errorf("it is not cut off in %s: %v %w", table, all, err)
			}
			return nil
		})
	}
	cutOff(waitingName)
	start()
	cutOff(TableName)
	require.NoError(t, testutil.GatherAndCompare(r, strings.NewReader("# HELP keelson_policy_undecided_pods Pods of this node that reach nothing because their objects are not known yet.\n"+
		"# TYPE keelson_policy_undecided_pods gauge\nkeelson_policy_undecided_pods 1\n"), "keelson_policy_undecided_pods"))
	_, err := client.CoreV1().Pods("x").Create(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "a", UID: "u"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.Empty(t, elements(t, ns, TableName, links[egress]), "what leaves it is not isolated")
	require.Equal(t, []string{"kpod1"}, elements(t, ns, TableName, links[ingress]))
	require.Empty(t, elements(t, ns, waitingName, links[ingress]))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.ID, p.Name, p.Link = "2", "b", "kpod2"
	require.ErrorIs(t, e.Admit(ctx, p), context.Canceled)
	e.Forget(p)
	require.NoError(t, e.Admit(ctx, podnet.Pod{ID: "3", Namespace: "y", Name: "c", UID: "v", Link: "kpod3"}), "no policy is about it")
}

// TestWaitingPodsOutliveTheAgent has two agents end before they know policies. Who waited, waits on.
func TestWaitingPodsOutliveTheAgent(t *testing.T) {
	ns := testkit.NewNetNS(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	pod := func(n int) podnet.Pod {
		return podnet.Pod{ID: fmt.Sprint(n), Namespace: "x", Name: fmt.Sprint(n), UID: "u", Link: fmt.Sprint("kpod", n)}
	}
	for n := range 3 {
		e, _ := enforcer(t, ns, fake.NewClientset(), nil)
		for i := range n {
			e.Resume(pod(i))
		}
		e.Resume(pod(9)) // which never waited
		require.ErrorIs(t, e.Admit(ctx, pod(n)), context.Canceled)
	}
	require.ElementsMatch(t, []string{"kpod0", "kpod1", "kpod2"}, elements(t, ns, waitingName, links[ingress]))
}

// TestWriteFails has a table that cannot be written: a pod is not admitted, and is when it can.
func TestWriteFails(t *testing.T) {
	ns := testkit.NewNetNS(t)
	f := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	e, err := New(Config{Pods: f.Core().V1().Pods().Informer(), Namespaces: f.Core().V1().Namespaces().Informer(), Policies: f.Networking().V1().NetworkPolicies().Informer(), NetNS: ns.Path()})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	e.patience = 0
	e.state.setPolicy(deny("x", networkingv1.PolicyTypeIngress))
	e.write()
	<-e.ready
	right := e.table
	e.table = nft.NewWriter(TableName, 1<<30) // no namespace
	p := podnet.Pod{ID: "1", Namespace: "x", Name: "a", UID: "u", Link: "kpod1"}
	require.ErrorContains(t, e.Admit(context.Background(), p), "policy: ")
	e.write()
	require.Error(t, e.fault)
	e.table = right
	e.check()
	require.NoError(t, e.fault)
	require.Equal(t, []string{"kpod1"}, elements(t, ns, TableName, links[ingress]))
}

// TestLinkLocal has a pod that is isolated speak to its node under an address that is not its own.
func TestLinkLocal(t *testing.T) {
	w := newWorld(t)
	m := w.nodes[0]
	m.start(true)()
	p := m.object("x", "a", nil).create().attach().report()
	answer(t, m.NetNS, "::", 99)
	reach := func() bool {
		return p.Do(func() error {
			c, err := net.DialTimeout("tcp6", "[fe80::1%eth0]:99", 300*time.Millisecond)
			if err == nil {
				_ = c.Close()
			}
			return err
		}) == nil
	}
	eventually(t, func() error {
		if !reach() {
			return fmt.Errorf("there is no way to the node's address on the link")
		}
		return nil
	})
	w.apply(deny("x", networkingv1.PolicyTypeEgress))
	eventually(t, func() error {
		if reach() {
			return fmt.Errorf("it gets through")
		}
		return nil
	})
}

func TestNew(t *testing.T) {
	_, err := New(Config{})
	require.EqualError(t, err, "policy: informers of pods, namespaces and network policies are needed")
	f := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	c := Config{Pods: f.Core().V1().Pods().Informer(), Namespaces: f.Core().V1().Namespaces().Informer(), Policies: f.Networking().V1().NetworkPolicies().Informer()}
	c.NetNS = "/nowhere"
	_, err = New(c)
	require.ErrorContains(t, err, "policy: ")
	c.NetNS, c.Registerer = "", prometheus.NewRegistry()
	for range 2 { // what is closed can be opened again
		e, err := New(c)
		require.NoError(t, err)
		_, err = New(c)
		require.ErrorContains(t, err, "duplicate")
		n, err := testutil.GatherAndCount(c.Registerer.(prometheus.Gatherer))
		require.NoError(t, err)
		require.Equal(t, 6, n)
		require.NoError(t, e.Close())
	}
}
