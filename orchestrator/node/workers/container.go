package workers

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/environ/expansion"
)

// hostsPath is where a container finds the hosts file of its pod.
const hostsPath = "/etc/hosts"

// containerConfig is what the runtime has to know of a container. Its error is one of configuration: the user can mend it.
func (ws *Workers) containerConfig(ctx context.Context, p *corev1.Pod, s start, img image, ips []string) (*runtimeapi.ContainerConfig, error) {
	c := s.container
	if err := checkNonRoot(p, c, img.user); err != nil {
		return nil, err
	}
	vars, err := ws.cfg.Environ.Env(ctx, p, c, ips)
	if err != nil {
		return nil, err
	}
	device, err := ws.deviceOptions(ctx, p, c)
	if err != nil {
		return nil, err
	}
	blocks, err := ws.cfg.Volumes.Devices(p, c)
	if err != nil {
		return nil, err
	}
	vars = append(vars, device.Env...)
	env := make(map[string]string, len(vars))
	cc := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: uint32(s.attempt)},
		Image:    &runtimeapi.ImageSpec{Image: img.ref, UserSpecifiedImage: c.Image},
		Labels:   containerLabels(p, c), Annotations: containerAnnotations(p, s), LogPath: filepath.Join(c.Name, strconv.Itoa(int(s.attempt))+".log"),
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY, WorkingDir: c.WorkingDir,
		Devices: append(blocks, device.Devices...), CDIDevices: device.CDI, StopSignal: stopSignal(c),
		Linux: &runtimeapi.LinuxContainerConfig{Resources: ws.cfg.Cgroups.Resources(p, c), SecurityContext: ws.securityContext(p, s, img.user)},
	}
	for _, v := range vars {
		env[v.Name] = v.Value
		cc.Envs = append(cc.Envs, &runtimeapi.KeyValue{Key: v.Name, Value: []byte(v.Value)})
	}
	get := expansion.Of(env)
	cc.Command, cc.Args = expansion.All(c.Command, get), expansion.All(c.Args, get)
	for k, v := range device.Annotations {
		cc.Annotations[k] = v
	}
	if cc.Mounts, err = ws.mounts(p, s, env, ips); err != nil {
		return nil, err
	}
	cc.Mounts = append(cc.Mounts, device.Mounts...)
	return cc, nil
}

func (ws *Workers) deviceOptions(ctx context.Context, p *corev1.Pod, c *corev1.Container) (DeviceOptions, error) {
	if ws.cfg.Devices == nil {
		return DeviceOptions{}, nil
	}
	return ws.cfg.Devices.Options(ctx, p, c)
}

// mounts are a container's volumes, its hosts file and the file of its message.
func (ws *Workers) mounts(p *corev1.Pod, s start, env map[string]string, ips []string) ([]*runtimeapi.Mount, error) {
	mounts, err := ws.cfg.Volumes.Mounts(p, s.container, env)
	if err != nil {
		return nil, err
	}
	taken := func(path string) bool {
		for _, m := range mounts {
			if m.ContainerPath == path {
				return true
			}
		}
		return false
	}
	if !taken(hostsPath) {
		hosts, err := ws.cfg.Environ.Hosts(p, ips)
		if err != nil {
			return nil, err
		}
		if hosts != "" {
			mounts = append(mounts, &runtimeapi.Mount{HostPath: hosts, ContainerPath: hostsPath})
		}
	}
	if !taken(s.container.TerminationMessagePath) {
		m, err := ws.makeMessage(p, s)
		if err != nil {
			return nil, err
		}
		if m != nil {
			mounts = append(mounts, m)
		}
	}
	if ids := ws.users.mappings(p); ids != nil {
		for _, m := range mounts {
			m.UidMappings, m.GidMappings = ids, ids
		}
	}
	return mounts, nil
}

// stopSignal is the signal that asks a container to end, as the runtime counts signals.
func stopSignal(c *corev1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+strings.ReplaceAll(strings.ReplaceAll(string(*c.Lifecycle.StopSignal), "+", "PLUS"), "-", "MINUS")])
}

// signalName undoes stopSignal; nil if the runtime does not say.
func signalName(s runtimeapi.Signal) *corev1.Signal {
	if s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return nil
	}
	name := strings.TrimPrefix(s.String(), "SIGNAL_")
	name = strings.ReplaceAll(strings.ReplaceAll(name, "PLUS", "+"), "MINUS", "-")
	return ptr.To(corev1.Signal(name))
}

// startContainer brings one container up, its postStart hook included. It says in its failure why it could not.
func (ws *Workers) startContainer(ctx context.Context, w *worker, p *corev1.Pod, s start, box *sandbox) *failure {
	c := s.container
	config, err := ws.sandboxConfig(p, box.attempt)
	if err != nil {
		return &failure{reason: reasonConfigError, message: err.Error()}
	}
	img, f := ws.ensureImage(ctx, p, s, config)
	if f != nil {
		if ctx.Err() == nil {
			ws.event(p, c, corev1.EventTypeWarning, eventFailed, "Error: %s", f.reason)
		}
		return f
	}
	if n, err := ws.nextLog(p, c.Name); err == nil { // what the runtime forgot is still counted by its logs
		s.attempt = max(s.attempt, n)
	}
	cc, err := ws.containerConfig(ctx, p, s, img, podIPs(p, box, ws.cfg.hostIPs()))
	if err != nil {
		return ws.failed(ctx, p, c, reasonConfigError, err)
	}
	if err := os.MkdirAll(filepath.Join(ws.LogDir(p), c.Name), 0o755); err != nil {
		return ws.failed(ctx, p, c, reasonConfigError, err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	made, err := ws.cfg.Runtime.CreateContainer(call, &runtimeapi.CreateContainerRequest{PodSandboxId: box.id, Config: cc, SandboxConfig: config})
	if err != nil {
		return ws.failed(ctx, p, c, reasonCreateError, err)
	}
	if err := ws.allocations.applied(p.UID, c.Name, c.Resources); err != nil {
		ws.log.Warn("resources of a container are not recorded", podFields(p, err)...)
	}
	ws.event(p, c, corev1.EventTypeNormal, eventCreated, "Container created")
	w.hooking(made.ContainerId, true)
	defer w.hooking(made.ContainerId, false)
	if _, err := ws.cfg.Runtime.StartContainer(call, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		return ws.failed(ctx, p, c, reasonRunError, err)
	}
	ws.event(p, c, corev1.EventTypeNormal, eventStarted, "Container started")
	ws.linkLog(p, c.Name, made.ContainerId, filepath.Join(ws.LogDir(p), cc.LogPath))
	w.kick()
	return ws.postStart(ctx, p, c, made.ContainerId, box)
}

// failed reports why a container could not be started.
func (ws *Workers) failed(ctx context.Context, p *corev1.Pod, c *corev1.Container, reason string, err error) *failure {
	if ctx.Err() == nil {
		ws.event(p, c, corev1.EventTypeWarning, eventFailed, "Error: %s", message(err))
	}
	return &failure{reason: reason, message: message(err)}
}

// nextLog is one more than the greatest attempt that a container has a log of.
func (ws *Workers) nextLog(p *corev1.Pod, name string) (int32, error) {
	entries, err := os.ReadDir(filepath.Join(ws.LogDir(p), name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	next := int32(0)
	for _, e := range entries {
		n, _, _ := strings.Cut(e.Name(), ".") // rotated logs have a time after it
		if i, err := strconv.ParseInt(n, 10, 32); err == nil {
			next = max(next, int32(i)+1)
		}
	}
	return next, nil
}

// linkLog links a log under the name by which collectors of logs look for it.
func (ws *Workers) linkLog(p *corev1.Pod, name, id, path string) {
	dir := ws.cfg.Options.LogLinks
	if dir == "" {
		return
	}
	link := filepath.Join(dir, fmt.Sprintf("%s_%s_%s-%s.log", p.Name, p.Namespace, name, id))
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.Symlink(path, link)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		ws.log.Warn("log cannot be linked", podFields(p, err)...)
	}
}

// unlinkLog removes the link to a container's log.
func (ws *Workers) unlinkLog(id string) {
	dir := ws.cfg.Options.LogLinks
	if dir == "" {
		return
	}
	links, _ := filepath.Glob(filepath.Join(dir, "*-"+id+".log"))
	for _, l := range links {
		_ = os.Remove(l)
	}
}

// podIPs are the addresses of a pod: those of its sandbox, or the node's.
func podIPs(p *corev1.Pod, box *sandbox, host []string) []string {
	if p.Spec.HostNetwork {
		return host
	}
	if box == nil {
		return nil
	}
	return box.ips
}
