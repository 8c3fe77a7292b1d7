//go:build linux

package joining

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/google/nftables"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{Nodes: []string{"two"}}, func(c *nodetest.Cluster) { cluster = c }))
}

// busy is a pod with something of everything that can be left behind.
func busy(node string) *corev1.Pod {
	p := nodetest.Pod("busy", "sleep", "100000")
	p.Spec.NodeName = node
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	c := &p.Spec.Containers[0]
	c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "memory", MountPath: "/memory"}, {Name: "info", MountPath: "/info"}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
		}}}},
	}
	return p
}

// found is what the network of a machine has that it had not before there was a node.
func found(t *testing.T, m *nodetest.Machine) (all []string) {
	require.NoError(t, m.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			if name := l.Attrs().Name; name != "lo" && name != "eth0" && l.Type() != "ipip" && l.Type() != "sit" {
				all = append(all, "link "+name)
			}
			addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				if l.Attrs().Name == "lo" && !a.IP.IsLoopback() {
					all = append(all, "address "+a.String())
				}
			}
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.Equal(net.IPv4zero) && !r.Dst.Contains(net.ParseIP(nodetest.Outside)) {
				all = append(all, "route "+r.String())
			}
		}
		c, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		for _, table := range tables {
			all = append(all, "table "+table.Name)
		}
		return err
	}))
	return all
}

// kubeconfig reaches the API server from any machine.
func kubeconfig(t *testing.T) string {
	c, err := clientcmd.LoadFromFile(cluster.Kubeconfig)
	require.NoError(t, err)
	for _, one := range c.Clusters {
		one.Server = "https://" + cluster.One.Address + ":6443"
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, clientcmd.WriteToFile(*c, file))
	return file
}

// TestJoinAndReset: a machine joins with a token, is killed, leaves nothing, and joins anew.
func TestJoinAndReset(t *testing.T) {
	m, program := cluster.Machine("two"), cluster.Node("two")
	ns := cluster.Namespace(t)
	pod := cluster.Started(t, ns, busy("two"))
	logs, err := os.ReadDir(m.Logs())
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	foreign := filepath.Join(m.Logs(), "other_pod_of-somebody-else")
	require.NoError(t, os.Mkdir(foreign, 0o755))
	reset := func(args ...string) (string, error) {
		return cluster.Keelson(m, append([]string{"node", "reset", "--data-dir", m.Node()}, args...)...)
	}
	_, err = reset("--yes")
	require.ErrorContains(t, err, "is run by another process")
	require.NoError(t, program.Kill())
	_, err = reset()
	require.ErrorContains(t, err, "--yes")
	require.NotEmpty(t, m.Left(), "the pod runs on")
	require.NotEmpty(t, found(t, m))

	said, err := reset("--yes", "--kubeconfig", kubeconfig(t))
	require.NoError(t, err)
	require.Contains(t, said, "the node two is deleted")
	nodetest.Until(t, "nothing is left", func() (bool, any) { // a process that was killed takes a moment to end
		left := m.Left()
		return len(left) == 0, left
	})
	require.Empty(t, found(t, m))
	require.NoDirExists(t, m.Node())
	logs, err = os.ReadDir(m.Logs())
	require.NoError(t, err)
	require.Len(t, logs, 1, "and that is somebody else's")
	for _, dir := range m.Cgroups() {
		require.False(t, strings.HasSuffix(dir, "/kubepods") || strings.HasSuffix(dir, "/keelson"), dir)
	}
	_, err = cluster.Client.CoreV1().Nodes().Get(t.Context(), "two", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)

	said, err = reset("--yes")
	require.NoError(t, err, "twice does no harm")
	require.Contains(t, said, "there is no node in "+m.Node())
	require.NoError(t, os.MkdirAll(filepath.Join(m.Node(), "precious"), 0o755))
	_, err = reset("--yes")
	require.ErrorContains(t, err, "is no directory of a node")
	require.NoError(t, os.RemoveAll(m.Node()))

	require.NoError(t, program.Start(), "the token is still good")
	require.NoError(t, cluster.Serves("two"))
	cluster.Delete(t, ns, pod.Name) // it is bound to the node, which is there again
}
