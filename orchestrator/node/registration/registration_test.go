package registration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
)

var shared *clustertest.Cluster

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "registration")
	if err != nil {
		panic(err)
	}
	shared, err = clustertest.Run(cluster.Options{Out: os.Stderr, API: cluster.API{DataDir: dir, BindAddress: "127.0.0.1", Logger: zap.NewNop()}})
	if err != nil {
		panic(err)
	}
	code := m.Run()
	shared.Stop()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// cri is a runtime that tells of itself.
type cri struct {
	down, noNetwork atomic.Bool
}

func (c *cri) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "test", RuntimeVersion: "1.2"}, nil
}

func (c *cri) Status(context.Context, *runtimeapi.StatusRequest, ...grpc.CallOption) (*runtimeapi.StatusResponse, error) {
	if c.down.Load() {
		return nil, context.DeadlineExceeded
	}
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: !c.noNetwork.Load(), Reason: "NoConfig", Message: "none"},
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "b"}, {Name: "", Features: &runtimeapi.RuntimeHandlerFeatures{UserNamespaces: true}}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}, nil
}

func (c *cri) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	out := &runtimeapi.ListImagesResponse{}
	for i := range 60 {
		out.Images = append(out.Images, &runtimeapi.Image{Id: "i", RepoTags: []string{"a", "b", "c"}, RepoDigests: []string{"d", "e", "f"}, Size: uint64(i)})
	}
	return out, nil
}

// anonymous reaches the API server as nobody.
func anonymous() *rest.Config {
	c := rest.AnonymousClientConfig(shared.Config)
	c.QPS = -1
	return c
}

// token makes a bootstrap token, and reaches the API server with it.
func token(t *testing.T, id string) *rest.Config {
	t.Helper()
	_, err := shared.Client(t, nil).CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	c := anonymous()
	c.BearerToken = id + ".0123456789abcdef"
	return c
}

func join(t *testing.T, cfg registration.JoinConfig) *registration.Credentials {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := registration.Join(ctx, cfg)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// run runs a registration until the test, or what is returned, ends it.
func run(t *testing.T, cfg registration.Config) (*registration.Registration, func()) {
	t.Helper()
	r, err := registration.New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	var ended bool
	stop := func() {
		cancel()
		if !ended {
			ended = true
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return r, stop
}

func condition(n *corev1.Node, t corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.NodeCondition{}
}

func eventually(t *testing.T, ok func() bool, what string) {
	t.Helper()
	require.Eventually(t, ok, time.Minute, 5*time.Millisecond, what)
}

// A machine joins with a token: it gets its certificates, and a Node that becomes ready and says what the machine is.
func TestJoin(t *testing.T) {
	ctx, admin, dir := t.Context(), shared.Client(t, nil), t.TempDir()
	c := join(t, registration.JoinConfig{Dir: dir, Name: "joins", Bootstrap: token(t, "aaaaaa")})
	client, err := kubernetes.NewForConfig(c.Config())
	require.NoError(t, err)
	_, err = client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "it is a node, which sees the secrets of its own pods only: %v", err)
	require.ErrorContains(t, err, "system:node:joins")

	runtime := &cri{}
	runtime.noNetwork.Store(true)
	var pressure atomic.Pointer[registration.Pressure]
	pressure.Store(&registration.Pressure{})
	var devices atomic.Int64
	cfg := registration.Config{
		Client: client, Name: "joins", Runtime: runtime, Images: runtime, Version: "v1.37.2", Port: 12345, Dir: dir,
		Spec: registration.Spec{
			Labels: map[string]string{corev1.LabelTopologyZone: "z", "a": "b"}, Annotations: map[string]string{"x.example/y": "z"}, ProviderID: "test://joins",
			Taints: []corev1.Taint{{Key: "dedicated", Value: "x", Effect: corev1.TaintEffectNoSchedule}},
		},
		Addresses: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}
		},
		Reserved: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Mi")},
		ReservedOf: func(capacity corev1.ResourceList) corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceMemory: *resource.NewQuantity(capacity.Memory().Value()/2, resource.BinarySI)}
		},
		Pressure: func() registration.Pressure { return *pressure.Load() },
		Devices: func() (corev1.ResourceList, corev1.ResourceList) {
			n := corev1.ResourceList{"x.example/gpu": *resource.NewQuantity(devices.Load(), resource.DecimalSI)}
			return n, n
		},
	}
	r, stop := run(t, cfg)
	get := func() *corev1.Node {
		n, err := admin.CoreV1().Nodes().Get(ctx, "joins", metav1.GetOptions{})
		if err != nil {
			return &corev1.Node{}
		}
		return n
	}
	eventually(t, func() bool { return condition(get(), corev1.NodeReady).Status == corev1.ConditionFalse }, "registered")
	require.Equal(t, "container runtime network not ready: NetworkReady=false reason:NoConfig message:none", condition(get(), corev1.NodeReady).Message)
	runtime.noNetwork.Store(false)
	eventually(t, func() bool { return condition(get(), corev1.NodeReady).Status == corev1.ConditionTrue }, "ready")
	n := get()
	require.Equal(t, "KubeletReady", condition(n, corev1.NodeReady).Reason)
	for k, v := range map[string]string{corev1.LabelHostname: "joins", corev1.LabelOSStable: "linux", corev1.LabelTopologyZone: "z", "a": "b"} {
		require.Equal(t, v, n.Labels[k], k)
	}
	require.Equal(t, "z", n.Annotations["x.example/y"])
	require.Equal(t, "test://joins", n.Spec.ProviderID)
	require.Equal(t, "dedicated", n.Spec.Taints[0].Key)
	require.Equal(t, []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeInternalIP, Address: "::1"}, {Type: corev1.NodeHostName, Address: "joins"},
	}, n.Status.Addresses)
	require.EqualValues(t, 12345, n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	require.Equal(t, "test://1.2", n.Status.NodeInfo.ContainerRuntimeVersion)
	require.Equal(t, "v1.37.2", n.Status.NodeInfo.KubeletVersion)
	require.NotEmpty(t, n.Status.NodeInfo.KernelVersion)
	require.NotEmpty(t, n.Status.NodeInfo.BootID)
	require.Len(t, n.Status.Images, 50)
	require.EqualValues(t, 59, n.Status.Images[0].SizeBytes)
	require.Equal(t, []string{"d", "e", "f", "a", "b"}, n.Status.Images[0].Names)
	require.Equal(t, "", n.Status.RuntimeHandlers[0].Name)
	require.True(t, *n.Status.RuntimeHandlers[0].Features.UserNamespaces)
	require.True(t, *n.Status.Features.SupplementalGroupsPolicy)
	cpu := n.Status.Capacity.Cpu().DeepCopy()
	cpu.Sub(resource.MustParse("500m"))
	require.Zero(t, cpu.Cmp(*n.Status.Allocatable.Cpu()))
	require.EqualValues(t, 110, n.Status.Allocatable.Pods().Value())
	memory := n.Status.Capacity.Memory().Value()
	require.Equal(t, memory-1<<20-memory/2, n.Status.Allocatable.Memory().Value(), "what is reserved, and what eviction keeps free")
	require.Positive(t, n.Status.Capacity.Memory().Value())
	require.Positive(t, n.Status.Capacity.StorageEphemeral().Value())

	pressure.Store(&registration.Pressure{Disk: true})
	eventually(t, func() bool { return condition(get(), corev1.NodeDiskPressure).Reason == "KubeletHasDiskPressure" }, "pressure is told")
	eventually(t, func() bool {
		for _, taint := range get().Spec.Taints {
			if taint.Key == corev1.TaintNodeDiskPressure {
				return true
			}
		}
		return false
	}, "and the control plane's controllers follow")
	devices.Store(3)
	eventually(t, func() bool { q := get().Status.Allocatable["x.example/gpu"]; return q.Value() == 3 }, "devices are told")
	runtime.down.Store(true)
	eventually(t, func() bool { return condition(get(), corev1.NodeReady).Status == corev1.ConditionFalse }, "not ready")
	require.Contains(t, condition(get(), corev1.NodeReady).Message, "container runtime is down")
	runtime.down.Store(false)

	l, err := admin.CoordinationV1().Leases("kube-node-lease").Get(ctx, "joins", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 40, *l.Spec.LeaseDurationSeconds)
	require.Equal(t, n.UID, l.OwnerReferences[0].UID)

	// Another run keeps what others have written, and brings back its own.
	stop()
	require.NoError(t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n = get()
		n.Labels["theirs"], n.Labels["a"] = "1", "changed"
		_, err := admin.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{})
		return err
	}))
	before := n.Status.NodeInfo.BootID
	require.NoError(t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		n = get()
		n.Status.NodeInfo.BootID = "another"
		_, err := admin.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
		return err
	}))
	events := record.NewFakeRecorder(100)
	cfg.Devices, cfg.Events = nil, events
	r, _ = run(t, cfg)
	require.Equal(t, "Warning Rebooted Node joins has been rebooted, boot id: "+before, <-events.Events)
	eventually(t, func() bool { return condition(get(), corev1.NodeReady).Status == corev1.ConditionTrue }, "ready again")
	n = get()
	require.Equal(t, "1", n.Labels["theirs"])
	require.Equal(t, "b", n.Labels["a"])
	gpu := n.Status.Allocatable["x.example/gpu"]
	require.Zero(t, gpu.Value(), "devices of the last run are not there until they are found again")
	eventually(t, func() bool { return r.Node() != nil && r.Node().Labels["theirs"] == "1" }, "it knows")

	// The object comes back if somebody deletes it.
	uid := n.UID
	require.NoError(t, admin.CoreV1().Nodes().Delete(ctx, "joins", metav1.DeleteOptions{}))
	pressure.Store(&registration.Pressure{Memory: true})
	eventually(t, func() bool { n := get(); return n.UID != "" && n.UID != uid && n.DeletionTimestamp == nil }, "registered anew")
}

// The server of a node has a certificate of its own until the cluster has signed one for the addresses that the Node has.
func TestServing(t *testing.T) {
	dir := t.TempDir()
	c := join(t, registration.JoinConfig{Dir: dir, Name: "serves", Bootstrap: token(t, "bbbbbb")})
	var node atomic.Pointer[corev1.Node]
	s, err := c.Serving(node.Load)
	require.NoError(t, err)
	current := func() *x509.Certificate {
		cert, err := s.Certificate(&tls.ClientHelloInfo{})
		require.NoError(t, err)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		require.NoError(t, err)
		return leaf
	}
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(shared.Config.CAData))
	verify := func(host string) error {
		_, err := current().Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		return err
	}
	require.Error(t, verify("127.0.0.9"))
	client, err := kubernetes.NewForConfig(c.Config())
	require.NoError(t, err)
	runtime := &cri{}
	r, _ := run(t, registration.Config{
		Client: client, Name: "serves", Runtime: runtime, Images: runtime,
		Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.9")} },
	})
	eventually(t, func() bool {
		node.Store(r.Node())
		return r.Node() != nil
	}, "registered")
	eventually(t, func() bool { return verify("127.0.0.9") == nil }, "signed")
	require.NoError(t, verify("serves"))
	require.Error(t, verify("127.0.0.8"))
	require.FileExists(t, filepath.Join(dir, "server-current.pem"))
}

// The certificate of a node is changed before it ends, in its files and on its connections.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	authority, err := pki.Open(filepath.Join(shared.DataDir, "pki"), time.Now)
	require.NoError(t, err)
	first := join(t, registration.JoinConfig{Dir: dir, Name: "rotates", Bootstrap: token(t, "cccccc")})
	first.Close()
	// What it got is replaced by one that has half a minute left, of which rotation waits for a part only.
	path := filepath.Join(dir, "client-current.pem")
	pair, err := tls.LoadX509KeyPair(path, path)
	require.NoError(t, err)
	short := func(from, to time.Duration) []byte {
		leaf := *pair.Leaf
		leaf.NotBefore, leaf.NotAfter = time.Now().Add(from), time.Now().Add(to)
		cert, err := authority.Sign(&leaf, leaf.PublicKey)
		require.NoError(t, err)
		return cert
	}
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var key []byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			key = append(key, pem.EncodeToMemory(block)...)
		}
	}
	at, err := filepath.EvalSymlinks(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at, append(short(-time.Hour, 30*time.Second), key...), 0o600))

	c := join(t, registration.JoinConfig{Dir: dir, Name: "rotates", Bootstrap: anonymous()})
	client, err := kubernetes.NewForConfig(c.Config())
	require.NoError(t, err)
	who := func() (string, error) { // the serial number of the certificate that a connection has
		r, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return strings.Join(r.Status.UserInfo.Extra["authentication.kubernetes.io/credential-id"], ""), nil
	}
	before, err := who()
	require.NoError(t, err)
	require.NotEmpty(t, before)
	leaf, err := tls.LoadX509KeyPair(path, path)
	require.NoError(t, err)
	eventually(t, func() bool {
		now, err := tls.LoadX509KeyPair(path, path)
		return err == nil && now.Leaf.NotAfter.After(leaf.Leaf.NotAfter.Add(time.Minute))
	}, "there is a new one")
	eventually(t, func() bool {
		now, err := who() // a request may be under way when its connection is closed
		return err == nil && now != before
	}, "connections with the old one are replaced")
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 2, "the old one is removed")

	// Files that cannot be read, and certificates that have ended, are replaced if there is a token.
	c.Close()
	at, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at, append(short(-time.Hour, -time.Minute), key...), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = registration.Join(ctx, registration.JoinConfig{Dir: dir, Name: "rotates", Bootstrap: anonymous()})
	require.ErrorContains(t, err, `no certificate for node "rotates"`)
	join(t, registration.JoinConfig{Dir: dir, Name: "rotates", Bootstrap: token(t, "dddddd")}).Close()
	at, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at, nil, 0o600))
	join(t, registration.JoinConfig{Dir: dir, Name: "rotates", Bootstrap: token(t, "eeeeee")}).Close()

	// So are those of another name, and of another cluster.
	renamed := token(t, "ffffff")
	join(t, registration.JoinConfig{Dir: dir, Name: "renamed", Bootstrap: renamed}).Close()
	foreign, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	leaf, err = tls.LoadX509KeyPair(path, path)
	require.NoError(t, err)
	require.Equal(t, "system:node:renamed", leaf.Leaf.Subject.CommonName)
	template := *pair.Leaf
	template.Subject.CommonName = "system:node:renamed"
	other, err := foreign.Sign(&template, pair.Leaf.PublicKey)
	require.NoError(t, err)
	at, err = filepath.EvalSymlinks(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(at, append(other, key...), 0o600))
	c = join(t, registration.JoinConfig{Dir: dir, Name: "renamed", Bootstrap: renamed})
	client, err = kubernetes.NewForConfig(c.Config())
	require.NoError(t, err)
	r, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "system:node:renamed", r.Status.UserInfo.Username)
}

// A machine that may not join is told nothing, and waits.
func TestStranger(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := registration.Join(ctx, registration.JoinConfig{Dir: t.TempDir(), Name: "stranger", Bootstrap: anonymous()})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestMachineAddresses(t *testing.T) {
	for _, a := range registration.MachineAddresses() {
		require.False(t, a.IsLoopback())
		l, err := net.ListenPacket("udp", netip.AddrPortFrom(a, 0).String())
		require.NoError(t, err, "it is one of this machine's")
		require.NoError(t, l.Close())
	}
}
