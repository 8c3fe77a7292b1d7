package workers

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
)

func resources(c *corev1.Container) *runtimeapi.LinuxContainerResources {
	return cgroup.Resources(c.Resources.Requests, c.Resources.Limits)
}

func TestPodRunsAndIsDeleted(t *testing.T) {
	in(t, func(h *harness) {
		h.api.create(makePod("a", "b"))
		h.expect("Running a=running+ b=running+")
		require.Equal(t, []string{"sandbox 0", "create a 0", "start a", "create b 0", "start b"}, h.rt.took())
		p := h.api.pod("p")
		require.Empty(t, unmet(p))
		require.Equal(t, "10.0.0.1", p.Status.PodIP)
		require.Equal(t, []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}, p.Status.PodIPs)
		require.Equal(t, "192.168.0.1", p.Status.HostIP)
		require.Equal(t, corev1.PodQOSBestEffort, p.Status.QOSClass)
		require.EqualValues(t, 1, p.Status.ObservedGeneration)
		require.Regexp(t, "^fake://a-", p.Status.ContainerStatuses[0].ContainerID)
		h.saw(
			`{a} Pulled: Container image "img:1" already present on machine and can be accessed by the pod`, "{a} Created: Container created", "{a} Started: Container started",
			`{b} Pulled: Container image "img:1" already present on machine and can be accessed by the pod`, "{b} Created: Container created", "{b} Started: Container started",
		)
		writes := h.api.writes
		h.pass(10 * time.Minute)
		require.Equal(t, writes, h.api.writes, "a status that does not change is not written")

		h.rt.behave = nil
		h.api.del("p", 30)
		h.pass(time.Second)
		h.expect("gone")
		require.Equal(t, []string{"p"}, h.api.deletes)
		h.nothingLeft()
		require.ElementsMatch(t, []string{"{a} Killing: Stopping container a", "{b} Killing: Stopping container b"}, h.events.take())
	})
}
