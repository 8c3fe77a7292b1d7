//go:build linux

// Package containerd runs a real containerd for tests, which keeps everything in one directory.
//
// # Concurrency
//
// A Containerd is started and stopped by one goroutine.
package containerd

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// Config says how containerd is run.
type Config struct {
	Dir           string // for all that it keeps; it is there
	Program, Runc string // paths; the shim is beside the program
	Pause         string // image of sandboxes
	Handlers      []string
	Mirror        string // host:port of a registry that it takes for docker.io; "": none
}

// Socket is where containerd serves CRI.
func (c *Config) Socket() string { return filepath.Join(c.Dir, "c.sock") }

// CNIConf, CNIBin and CDI are the directories where it looks for configurations of networks, plugins, and descriptions of devices.
func (c *Config) CNIConf() string { return filepath.Join(c.Dir, "net.d") }

// CNIBin is that of plugins.
func (c *Config) CNIBin() string { return filepath.Join(c.Dir, "cni") }

// CDI is that of descriptions of devices.
func (c *Config) CDI() string { return filepath.Join(c.Dir, "cdi") }

var text = template.Must(template.New("").Parse(`version = 3
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{{.Socket}}"
[ttrpc]
  address = "{{.Socket}}.ttrpc"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  stats_collect_period = 1
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{{.Pause}}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "{{.Dir}}/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = ["{{.CDI}}"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{{.CNIBin}}"]
    conf_dir = "{{.CNIConf}}"
    use_internal_loopback = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    {{range .Handlers}}
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{{.}}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{{.}}.options]
        BinaryName = "{{$.Runc}}"
        SystemdCgroup = false
    {{end}}
`))

// Containerd is one that runs.
type Containerd struct {
	cmd *exec.Cmd
	log *os.File
}

// Start writes the configuration and runs containerd. start is what starts the process: nil, or a function that does it elsewhere.
func Start(c *Config, start func(*exec.Cmd) error) (*Containerd, error) {
	var conf strings.Builder
	if err := text.Execute(&conf, c); err != nil {
		return nil, err
	}
	files := map[string]string{"config.toml": conf.String()}
	if c.Mirror != "" {
		files["certs.d/docker.io/hosts.toml"] = fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", c.Mirror)
	}
	for _, dir := range []string{c.CNIConf(), c.CNIBin(), c.CDI(), filepath.Join(c.Dir, "certs.d/docker.io")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(c.Dir, "log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(c.Program, "--config", filepath.Join(c.Dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(c.Program)+":"+os.Getenv("PATH"))
	if start == nil {
		start = (*exec.Cmd).Start
	}
	if err := start(cmd); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return &Containerd{cmd: cmd, log: log}, nil
}

// Stop ends containerd, in order if it can. Containers run on.
func (c *Containerd) Stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	kill := time.AfterFunc(30*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	_ = c.cmd.Wait() // how it ended does not matter
	return c.log.Close()
}

// Tail is the end of its log.
func (c *Containerd) Tail() string {
	data, _ := os.ReadFile(c.log.Name()) // without it there is nothing to show
	return string(data[max(0, len(data)-8000):])
}
