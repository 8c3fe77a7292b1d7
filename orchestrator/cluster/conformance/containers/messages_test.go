//go:build linux

package containers

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func messages() behaviours {
	return behaviours{
		"Container Runtime blackbox test on terminated container should report termination message if TerminationMessagePath is set as non-root user and at a non-default path":           message{script: "echo -n DONE > /dev/custom-log", path: "/dev/custom-log", user: 10000, want: "DONE"}.run,
		"Container Runtime blackbox test on terminated container should report termination message from log output if TerminationMessagePolicy FallbackToLogsOnError is set":              message{script: "echo -n DONE; false", fails: true, logs: true, want: "DONE"}.run,
		"Container Runtime blackbox test on terminated container should report termination message as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set":  message{script: "echo -n DONE", logs: true, want: ""}.run,
		"Container Runtime blackbox test on terminated container should report termination message from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set": message{script: "echo -n OK > /dev/termination-log; echo DONE", logs: true, want: "OK"}.run,
	}
}

// message is a container's last word.
type message struct {
	script string
	path   string // "": the default
	user   int64
	logs   bool // it may come from the log
	fails  bool
	want   string
}

func (m message) run(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "sh", "-c", m.script)
	c := &pod.Spec.Containers[0]
	c.TerminationMessagePath = m.path
	c.SecurityContext = &corev1.SecurityContext{RunAsUser: &m.user}
	if m.logs {
		c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	}
	got := cluster.Finished(t, ns, pod)
	phase := corev1.PodSucceeded
	if m.fails {
		phase = corev1.PodFailed
	}
	require.Equal(t, phase, got.Status.Phase)
	require.Equal(t, m.want, got.Status.ContainerStatuses[0].State.Terminated.Message)
}

func commands() behaviours {
	return behaviours{
		"Containers should use the image defaults if command and args are blank":                   says(nil, nil, "entry by default"),
		"Containers should be able to override the image's default arguments (container cmd)":      says(nil, []string{"by", "hand"}, "entry by hand"),
		"Containers should be able to override the image's default command (container entrypoint)": says([]string{"echo", "command"}, nil, "command"),
		"Containers should be able to override the image's default command and arguments":          says([]string{"echo", "command"}, []string{"by", "hand"}, "command by hand"),
	}
}

// says shows what a container of EchoImage runs.
func says(command, args []string, want string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		pod := nodetest.Pod("app", command...)
		pod.Spec.Containers[0].Image, pod.Spec.Containers[0].Args = nodetest.EchoImage, args
		require.Equal(t, want+"\n", cluster.Run(t, ns, pod))
	}
}
