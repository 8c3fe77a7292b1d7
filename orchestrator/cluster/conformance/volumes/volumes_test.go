//go:build linux

package volumes

import (
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// behaviours are functions that show that behaviours are held, by the names of these. Each has a namespace of its own.
type behaviours map[string]func(t *testing.T, ns string)

func TestConformance(t *testing.T) {
	all := behaviours{}
	for _, b := range []behaviours{configMaps(), secrets(), projections(), downward(), emptyDirs(), subpaths()} {
		maps.Copy(all, b)
	}
	for _, alone := range []bool{false, true} {
		t.Run(map[bool]string{false: "together", true: "alone"}[alone], func(t *testing.T) {
			for name, run := range all {
				if strings.Contains(name, "[Serial]") == alone {
					t.Run(name, func(t *testing.T) {
						if !alone {
							t.Parallel()
						}
						run(t, cluster.Namespace(t))
					})
				}
			}
		})
	}
}

// The user and the group of containers that are not root's.
const (
	user  = 1000
	group = 1001
)

// row is a pod with volumes, which are mounted on /v0, /v1 and so on, a script, and what it prints.
type row struct {
	volumes []corev1.VolumeSource
	script  string
	log     string
	change  func(s *corev1.PodSpec)
}

func (r row) pod(name string) *corev1.Pod {
	p := nodetest.Pod(name, "sh", "-c", r.script)
	for i, v := range r.volumes {
		volume := fmt.Sprint("v", i)
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: v})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: "/" + volume})
	}
	if r.change != nil {
		r.change(&p.Spec)
	}
	return p
}

func (r row) holds(t *testing.T, ns string) {
	t.Helper()
	require.Equal(t, r.log, cluster.Run(t, ns, r.pod("facts")))
}

// stays starts a pod of a row that does nothing, so that it can be looked into.
func (r row) stays(t *testing.T, ns string) *corev1.Pod {
	t.Helper()
	r.script = "sleep 600"
	return cluster.Started(t, ns, r.pod("stays"))
}

// shows waits until a command in the pod that stays prints something.
func shows(t *testing.T, ns, text string, command ...string) {
	t.Helper()
	nodetest.Until(t, fmt.Sprintf("%v prints %q", command, text), func() (bool, any) {
		out, err := cluster.TryExec(t.Context(), ns, "stays", "main", command...)
		return err == nil && strings.Contains(out, text), fmt.Sprint(out, err)
	})
}

// lacks waits until a file is not there for the pod that stays.
func lacks(t *testing.T, ns, path string) {
	t.Helper()
	nodetest.Until(t, path+" is gone", func() (bool, any) {
		out, err := cluster.TryExec(t.Context(), ns, "stays", "main", "cat", path)
		return err != nil && strings.Contains(out+err.Error(), "no such file"), fmt.Sprint(out, err)
	})
}

// asUser has a pod run as a user that is not root.
func asUser(s *corev1.PodSpec) {
	s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](user)}
}

// asUserOfGroup has the files of its volumes belong to a group of its, too.
func asUserOfGroup(s *corev1.PodSpec) {
	s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](user), FSGroup: ptr.To[int64](group)}
}
