package workers

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestImageCannotBePulled(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.pullErr["no:1"] = status.Error(codes.NotFound, "no such image")
		p := makePod("a", "b")
		p.Spec.Containers[0].Image = "no:1"
		h.api.create(p)
		h.expect("Pending a=ErrImagePull b=running+")
		require.Equal(t, []string{"{a} Pulling: Pulling image \"no:1\"", "{a} Failed: Failed to pull image \"no:1\": no such image", "{a} Failed: Error: ErrImagePull"}, h.events.take()[:3])
		h.pass(4 * time.Second)
		h.expect("Pending a=ImagePullBackOff b=running+")
		require.Equal(t, `Back-off pulling image "no:1": ErrImagePull: no such image`, h.api.pod("p").Status.ContainerStatuses[0].State.Waiting.Message)
		h.saw(`{a} BackOff: Back-off pulling image "no:1"`)
		h.rt.took()
		h.pass(7 * time.Second)
		require.Equal(t, []string{"pull no:1"}, h.rt.took())
		h.pass(15 * time.Second)
		require.Empty(t, h.rt.took())
		h.pass(5 * time.Second)
		require.Equal(t, []string{"pull no:1"}, h.rt.took())
		h.rt.pullErr["no:1"] = nil
		h.pass(40 * time.Second)
		h.expect("Running a=running+ b=running+")
	})
}

func TestPullPolicies(t *testing.T) {
	for _, c := range []struct {
		name, image string
		policy      corev1.PullPolicy
		want        string
		calls       []string
	}{
		{"present", "img:1", corev1.PullIfNotPresent, "Running a=running+", []string{"sandbox 0", "create a 0", "start a"}},
		{"absent", "other:1", corev1.PullIfNotPresent, "Running a=running+", []string{"sandbox 0", "pull other:1", "create a 0", "start a"}},
		{"always", "img:1", corev1.PullAlways, "Running a=running+", []string{"sandbox 0", "pull img:1", "create a 0", "start a"}},
		{"never, present", "img:1", corev1.PullNever, "Running a=running+", []string{"sandbox 0", "create a 0", "start a"}},
		{"never, absent", "other:1", corev1.PullNever, "Pending a=ErrImageNeverPull", []string{"sandbox 0"}},
		{"no tag", "registry:5000/x/y", "", "Running a=running+", []string{"sandbox 0", "pull registry:5000/x/y:latest", "create a 0", "start a"}},
		{"not a name", "Not A Name", corev1.PullAlways, "Pending a=InvalidImageName", []string{"sandbox 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				p := makePod("a")
				p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = c.image, c.policy
				h.api.create(p)
				h.expect(c.want)
				require.Equal(t, c.calls, h.rt.took())
			})
		})
	}
}

func TestPodIsDeletedDuringPull(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.pullTime = time.Hour
		p := makePod("a")
		p.Spec.Containers[0].Image = "big:1"
		h.api.create(p)
		h.expect("Pending a=ContainerCreating")
		h.api.del("p", 30)
		h.expect("gone")
		h.nothingLeft()
	})
}

func TestContainersThatCannotStart(t *testing.T) {
	for _, c := range []struct {
		name  string
		harm  func(*harness, *corev1.Pod)
		want  string
		says  string
		event string
	}{
		{"environment", func(h *harness, _ *corev1.Pod) { h.environ.err = errors.New(`configmap "x" not found`) }, "Pending a=CreateContainerConfigError", `configmap "x" not found`, `{a} Failed: Error: configmap "x" not found`},
		{"create", func(h *harness, _ *corev1.Pod) { h.rt.createErr["a"] = status.Error(codes.Unknown, "bad mount") }, "Pending a=CreateContainerError", "bad mount", "{a} Failed: Error: bad mount"},
		{"start", func(h *harness, _ *corev1.Pod) {
			h.rt.behave = func(string, int) behaviour {
				return behaviour{start: status.Error(codes.Unknown, "exec: no such file")}
			}
		}, "Running a=RunContainerError", "exec: no such file", "{a} Failed: Error: exec: no such file"},
		{"root", func(_ *harness, p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To(int64(0))}
		}, "Pending a=CreateContainerConfigError", `container's runAsUser breaks non-root policy (pod: "p_ns(uid-p)", container: a)`, `{a} Failed: Error: container's runAsUser breaks non-root policy (pod: "p_ns(uid-p)", container: a)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			in(t, func(h *harness) {
				p := makePod("a")
				c.harm(h, p)
				h.api.create(p)
				h.expect(c.want)
				require.Equal(t, c.says, h.api.pod("p").Status.ContainerStatuses[0].State.Waiting.Message)
				require.Contains(t, h.events.take(), c.event)
				h.environ.err = nil
				delete(h.rt.createErr, "a")
				h.pass(time.Minute)
				if c.name == "environment" || c.name == "create" {
					h.expect("Running a=running+")
				}
			})
		})
	}
}

func TestSandboxCannotBeMade(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.boxErr = status.Error(codes.Unknown, "no addresses left")
		h.api.create(makePod("a"))
		h.expect("Pending a=ContainerCreating")
		require.Equal(t, []string{"ContainersReady=ContainersNotReady", "PodReadyToStartContainers=", "Ready=ContainersNotReady"}, unmet(h.api.pod("p")))
		h.saw("FailedCreatePodSandBox: Failed to create pod sandbox: no addresses left")
		h.pass(time.Minute)
		require.Len(t, h.events.take(), 2)
		h.rt.boxErr = nil
		h.pass(time.Minute)
		h.expect("Running a=running+")
	})
}

func TestUnknownRuntimeClass(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.RuntimeClassName = ptr.To("gvisor")
		h.api.create(p)
		h.expect("Pending a=ContainerCreating")
		h.saw(`FailedCreatePodSandBox: Failed to create pod sandbox: runtimeclass.node.k8s.io "gvisor" not found`)
	})
}

func TestVolumesCannotBeSetUp(t *testing.T) {
	in(t, func(h *harness) {
		h.volumes.err = errors.New(`MountVolume.SetUp failed for volume "v" : secret "s" not found`)
		h.api.create(makePod("a"))
		h.expect("Pending a=ContainerCreating")
		h.saw(`FailedMount: MountVolume.SetUp failed for volume "v" : secret "s" not found`)
		h.volumes.err = nil
		h.pass(time.Minute)
		h.expect("Running a=running+")
	})
}

func TestSandboxIsLost(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(name string, _ int) behaviour {
			if name == "one" {
				return behaviour{run: time.Second}
			}
			return behaviour{}
		}
		h.api.create(makePod("i:one", "a"))
		h.pass(2 * time.Second)
		h.expect("Running one=exit0+ a=running+")
		h.rt.took()
		h.rt.lose()
		h.pass(time.Minute)
		h.expect("Running one=exit0*1+ a=running*1+")
		require.Equal(t, "10.0.0.4", h.api.pod("p").Status.PodIP)
	})
}

func TestSandboxIsLostForGood(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		h.api.create(p)
		h.expect("Running a=running+")
		h.rt.lose()
		h.pass(time.Minute)
		h.expect("Failed a=exit137")
	})
}

func TestRuntimeForgetsAll(t *testing.T) {
	in(t, func(h *harness) {
		h.api.create(makePod("a"))
		h.expect("Running a=running+")
		h.stop()
		h.rt.end()
		h.rt.mu.Lock()
		clear(h.rt.boxes)
		clear(h.rt.containers)
		h.rt.mu.Unlock()
		h.start()
		h.pass(time.Minute)
		h.expect("Running a=running*1+")
	})
}

func TestRuntimeIsDown(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.down = true
		h.api.create(makePod("a"))
		h.pass(time.Minute)
		require.Empty(t, h.rt.took())
		h.rt.mu.Lock()
		h.rt.down = false
		h.rt.mu.Unlock()
		h.pass(2 * time.Second)
		h.expect("Running a=running+")
	})
}

func TestAPIServerIsDown(t *testing.T) {
	in(t, func(h *harness) {
		h.api.fail = apierrors.NewServiceUnavailable("down")
		h.api.create(makePod("a"))
		h.pass(time.Minute)
		require.Equal(t, "", string(h.api.pod("p").Status.Phase))
		require.NotNil(t, h.rt.container("a"), "pods start without it")
		h.api.mu.Lock()
		h.api.fail = nil
		h.api.mu.Unlock()
		h.pass(time.Minute)
		h.expect("Running a=running+")
	})
}

func TestRemovedWithoutNotice(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{onTerm: 3 * time.Second} }
		h.api.create(makePod("a"))
		h.expect("Running a=running+")
		h.api.force("p")
		h.pass(4 * time.Second)
		h.nothingLeft()
	})
}

func TestRemovedWhileAway(t *testing.T) {
	in(t, func(h *harness) {
		h.api.create(makePod("a"))
		h.expect("Running a=running+")
		h.stop()
		h.ws = nil
		h.api.force("p")
		h.start()
		h.pass(time.Second)
		h.nothingLeft()
	})
}

func TestDeadline(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.ActiveDeadlineSeconds = ptr.To(int64(60))
		h.api.create(p)
		h.pass(59 * time.Second)
		h.expect("Running a=running+")
		h.events.take()
		h.pass(2 * time.Second)
		h.expect("Failed[DeadlineExceeded] a=exit143")
		h.saw("DeadlineExceeded: Pod was active on the node longer than the specified deadline", "{a} Killing: Stopping container a")
		h.restart()
		h.pass(time.Hour)
		h.expect("Failed[DeadlineExceeded] a=exit143")
	})
}

func TestEviction(t *testing.T) {
	in(t, func(h *harness) {
		h.rt.behave = func(string, int) behaviour { return behaviour{ignores: true} }
		h.api.create(makePod("a"))
		h.expect("Running a=running+")
		require.Len(t, h.ws.Active(), 1)
		require.True(t, h.ws.End("uid-p", Verdict{
			Reason: "Evicted", Message: "The node was low on resource: memory.", Grace: ptr.To(3 * time.Second),
			Conditions: []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: "m"}},
		}))
		synctest.Wait()
		require.Empty(t, h.ws.Active())
		require.False(t, h.ws.Ended("uid-p"))
		h.pass(4 * time.Second)
		require.True(t, h.ws.Ended("uid-p"))
		h.expect("Failed[Evicted] a=exit137")
		require.Equal(t, "The node was low on resource: memory.", h.api.pod("p").Status.Message)
		require.NotEmpty(t, h.rt.left(), "its logs can be read")
		h.api.del("p", 30)
		h.expect("gone")
		h.nothingLeft()
	})
}

func TestConditionsOfOthers(t *testing.T) {
	in(t, func(h *harness) {
		p := makePod("a")
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
		h.api.create(p)
		h.expect("Running a=running+")
		require.Equal(t, []string{"Ready=ReadinessGatesNotReady"}, unmet(h.api.pod("p")))
		set := func(s corev1.ConditionStatus) {
			h.api.change("p", func(p *corev1.Pod) {
				p.Status.Conditions = append(p.Status.Conditions[:len(p.Status.Conditions):len(p.Status.Conditions)], corev1.PodCondition{Type: "example.com/gate", Status: s})
			})
		}
		set(corev1.ConditionTrue)
		h.expect("Running a=running+")
		require.Empty(t, unmet(h.api.pod("p")))
	})
}

func TestPullSecrets(t *testing.T) {
	in(t, func(h *harness) {
		_, err := h.api.client.CoreV1().Secrets("ns").Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"https://r.example.com/v1/":{"auth":"dTpw"},"other.example.com":{"username":"no"}}}`)},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		p := makePod("a")
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "missing"}, {Name: "s"}}
		p.Spec.Containers[0].Image = "r.example.com/x:1"
		h.api.create(p)
		h.expect("Running a=running+")
		require.Len(t, h.rt.auths, 1)
		require.Equal(t, "u", h.rt.auths[0].Username)
		require.Equal(t, "p", h.rt.auths[0].Password)
		auths, err := h.ws.Credentials(t.Context(), p, "r.example.com/volume:2") // the same for volumes that are images
		require.NoError(t, err)
		require.Len(t, auths, 1)
		require.Equal(t, "u", auths[0].Username)
		require.Contains(t, h.events.take(), "FailedToRetrieveImagePullSecret: Unable to retrieve some image pull secrets (missing); attempting to pull the image may not succeed.")
	})
}
