//go:build linux

package containers

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// behaviours are functions that show that behaviours are held, by the names of these. Each has a namespace of its own.
type behaviours map[string]func(t *testing.T, ns string)

func TestBehaviours(t *testing.T) {
	for _, part := range []behaviours{
		restarts(), inits(), probes(), hooks(), messages(), commands(), variables(), subpaths(), security(), kubelet(), streams(), resizes(), images(), replicas(), applications(),
	} {
		for name, run := range part {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				run(t, cluster.Namespace(t))
			})
		}
	}
}

// lines are those of a log.
func lines(log string) []string { return strings.Split(strings.TrimSuffix(log, "\n"), "\n") }

// state is the status of a container that has one.
func state(t *testing.T, all []corev1.ContainerStatus, name string) corev1.ContainerStatus {
	t.Helper()
	for _, s := range all {
		if s.Name == name {
			return s
		}
	}
	require.FailNow(t, "no status", "%s in %v", name, all)
	return corev1.ContainerStatus{}
}

// condition is the status of a condition, "" if there is none.
func condition(pod *corev1.Pod, kind corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

// restarted says whether the first container of a pod was started again so many times, and runs.
func restarted(times int32) func(*corev1.Pod) bool {
	return func(pod *corev1.Pod) bool {
		all := pod.Status.ContainerStatuses
		return len(all) > 0 && all[0].RestartCount >= times && all[0].State.Running != nil
	}
}
