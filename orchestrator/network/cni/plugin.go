package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// PluginName is the name of Keelson's plugin: its type in configurations, and its file in the directory of plugins.
const PluginName = "keelson-cni"

// confVersion is the version of the specification that Install writes: the newest that all current runtimes know.
const confVersion = "1.0.0"

// confName is the name of the file that Install writes.
const confName = "10-keelson.conflist"

// patience is how long the plugin waits for the agent.
const patience = 2 * time.Minute

// pluginConf is the plugin's configuration.
type pluginConf struct {
	types.PluginConf
	Socket        string `json:"socket"`
	RuntimeConfig struct {
		PortMappings []portMapping     `json:"portMappings,omitempty"`
		Bandwidth    bandwidth         `json:"bandwidth,omitzero"`
		Annotations  map[string]string `json:"io.kubernetes.cri.pod-annotations,omitempty"`
	} `json:"runtimeConfig,omitzero"`
}

// request is what the plugin was asked, as it is sent to the agent.
type request struct {
	Command     string          `json:"command"`
	ContainerID string          `json:"containerID"`
	NetNS       string          `json:"netns"`
	IfName      string          `json:"ifName"`
	Args        string          `json:"args"`
	Config      json.RawMessage `json:"config"`
}

// response is the agent's answer.
type response struct {
	Result *types100.Result `json:"result,omitempty"`
	Error  *types.Error     `json:"error,omitempty"`
}

// Invoked says whether this process was started as the plugin.
func Invoked() bool {
	return os.Getenv("CNI_COMMAND") != "" && (filepath.Base(os.Args[0]) == PluginName || len(os.Args) > 1 && os.Args[1] == "cni")
}

// Main runs the plugin: the request is in the environment and on the standard input, the answer goes to the standard output.
// On failure it prints the error as the specification wants and exits with 1.
func Main() {
	funcs := skel.CNIFuncs{
		Add:    func(a *skel.CmdArgs) error { return relay("ADD", a) },
		Del:    func(a *skel.CmdArgs) error { return relay("DEL", a) },
		Check:  func(a *skel.CmdArgs) error { return relay("CHECK", a) },
		GC:     func(a *skel.CmdArgs) error { return relay("GC", a) },
		Status: func(a *skel.CmdArgs) error { return relay("STATUS", a) },
	}
	skel.PluginMainFuncs(funcs, version.VersionsStartingFrom("0.3.1"), "Keelson's CNI plugin")
}

// relay asks the agent and prints its result.
func relay(command string, a *skel.CmdArgs) error {
	var conf pluginConf
	if err := json.Unmarshal(a.StdinData, &conf); err != nil {
		return types.NewError(types.ErrDecodingFailure, "the configuration cannot be read", err.Error())
	}
	if conf.Socket == "" {
		return types.NewError(types.ErrInvalidNetworkConfig, "the configuration names no socket of the node's agent", "")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := ask(ctx, conf.Socket, request{command, a.ContainerID, a.Netns, a.IfName, a.Args, a.StdinData})
	switch {
	case err != nil:
		return types.NewError(types.ErrTryAgainLater, "the node's agent does not answer", err.Error())
	case r.Error != nil:
		return r.Error
	case r.Result != nil:
		return types.PrintResult(r.Result, conf.CNIVersion)
	}
	return nil
}

func ask(ctx context.Context, socket string, q request) (*response, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://agent/cni", bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxRequest))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", res.Status, bytes.TrimSpace(body))
	}
	r := &response{}
	return r, json.Unmarshal(body, r)
}

// Install makes a container runtime use Keelson's network: it writes a configuration into its directory of those, and puts
// the program into its directory of plugins, by a symbolic link. Socket is where a Server listens.
func Install(confDir, binDir, program, socket string) error {
	conf := map[string]any{
		"cniVersion": confVersion, "name": "keelson",
		"plugins": []any{map[string]any{
			"type": PluginName, "socket": socket,
			"capabilities": map[string]bool{"portMappings": true, "bandwidth": true, "io.kubernetes.cri.pod-annotations": true},
		}},
	}
	b, err := json.MarshalIndent(conf, "", "  ")
	if err != nil {
		return fmt.Errorf("cni: %w", err)
	}
	for _, dir := range []string{confDir, binDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cni: %w", err)
		}
	}
	// The program comes first: who reads the configuration finds it.
	if err := replace(filepath.Join(binDir, PluginName), func(path string) error { return os.Symlink(program, path) }); err != nil {
		return err
	}
	return replace(filepath.Join(confDir, confName), func(path string) error { return os.WriteFile(path, b, 0o644) })
}

// Remove undoes Install. A configuration that names another socket belongs to somebody else, and stays with the plugin.
func Remove(confDir, binDir, socket string) error {
	file := filepath.Join(confDir, confName)
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cni: %w", err)
	}
	var conf struct{ Plugins []pluginConf }
	if err := json.Unmarshal(b, &conf); err != nil || len(conf.Plugins) != 1 || conf.Plugins[0].Socket != socket {
		return nil //nolint:nilerr // not what Install writes
	}
	for _, path := range []string{file, filepath.Join(binDir, PluginName)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cni: %w", err)
		}
	}
	return nil
}

// replace makes a file under another name and renames it, so that nobody sees a part of it.
func replace(path string, create func(path string) error) error {
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cni: %w", err)
	}
	if err := create(part); err != nil {
		return fmt.Errorf("cni: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return errors.Join(fmt.Errorf("cni: %w", err), os.Remove(part))
	}
	return nil
}
