//go:build linux

package spec

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultPath is where commands are looked for if neither image nor config say.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process says what is run, and as whom.
func process(c *Container, r *Result) error {
	args, err := Args(c.Config, c.Image)
	if err != nil {
		return err
	}
	sc := c.Config.GetLinux().GetSecurityContext()
	user, err := resolveUser(c.Rootfs, sc, c.Image.User)
	if err != nil {
		return err
	}
	caps, err := capabilities(sc, c.Host)
	if err != nil {
		return err
	}
	dir := c.Config.WorkingDir
	if dir == "" {
		dir = c.Image.WorkingDir
	}
	r.Spec.Process = &specs.Process{
		Terminal:        c.Config.Tty,
		Args:            args,
		Env:             environment(c),
		Cwd:             path.Join("/", dir),
		User:            user,
		Capabilities:    caps,
		NoNewPrivileges: sc.GetNoNewPrivs(),
	}
	r.User = &runtimeapi.LinuxContainerUser{Uid: int64(user.UID), Gid: int64(user.GID)}
	for _, g := range user.AdditionalGids {
		r.User.SupplementalGroups = append(r.User.SupplementalGroups, int64(g))
	}
	return nil
}

// Args is the command of a container with its arguments.
func Args(config *runtimeapi.ContainerConfig, image ocispec.ImageConfig) ([]string, error) {
	command, args := config.Command, config.Args
	if len(command) == 0 {
		command = image.Entrypoint
		if len(args) == 0 {
			args = image.Cmd
		}
	}
	all := append(append([]string{}, command...), args...)
	if len(all) == 0 || all[0] == "" {
		return nil, errors.New("spec: no command: neither the container nor its image name one")
	}
	return all, nil
}

// environment is that of the image with the config's variables over it.
func environment(c *Container) []string {
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + c.Files.Name}
	if c.Config.Tty {
		env = append(env, "TERM=xterm")
	}
	at := map[string]int{}
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		at[name] = i
	}
	set := func(name, value string) {
		if i, ok := at[name]; ok {
			env[i] = name + "=" + value
			return
		}
		at[name] = len(env)
		env = append(env, name+"="+value)
	}
	for _, kv := range c.Image.Env {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			set(name, value)
		}
	}
	for _, kv := range c.Config.Envs {
		set(kv.Key, string(kv.Value))
	}
	return env
}

// signal is CRI's by the name that an image uses, with or without SIG.
func signal(name string) (runtimeapi.Signal, bool) {
	name = "SIGNAL_SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	name = strings.NewReplacer("RTMIN+", "RTMINPLUS", "RTMAX-", "RTMAXMINUS").Replace(name)
	v, ok := runtimeapi.Signal_value[name]
	return runtimeapi.Signal(v), ok
}

// StopSignal is what a container is asked to stop with: what its config says, else its image, else SIGTERM.
func StopSignal(config runtimeapi.Signal, image string) (runtimeapi.Signal, error) {
	if config != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return config, nil
	}
	if image == "" {
		return runtimeapi.Signal_SIGNAL_SIGTERM, nil
	}
	if number, err := strconv.Atoi(image); err == nil {
		for v := range runtimeapi.Signal_name {
			if s := runtimeapi.Signal(v); v != 0 && SignalNumber(s) == number {
				return s, nil
			}
		}
	} else if s, ok := signal(image); ok {
		return s, nil
	}
	return 0, fmt.Errorf("spec: the image's stop signal %q is none", image)
}
