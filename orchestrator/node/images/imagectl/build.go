package imagectl

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/keelson-io/keelson/orchestrator/node/images"
)

// Spec is a build as it is written on a command line.
type Spec struct {
	Names      []string
	Base       string
	Binary     string
	Dir        string
	Files      []string // source:target
	Entrypoint []string
	Cmd        []string
	Env        []string // NAME=value
	Labels     []string // name=value
	Expose     []string // port[/protocol]
	Volumes    []string
	User       string
	WorkDir    string
	StopSignal string
	Platform   string
	Owners     bool
}

// Request checks a build. The time of the image is that of the variable SOURCE_DATE_EPOCH, in seconds, if it is set.
func (s Spec) Request() (images.BuildRequest, error) {
	req := images.BuildRequest{Names: s.Names, Base: s.Base, Binary: s.Binary, Dir: s.Dir, Owners: s.Owners, Files: map[string]string{}}
	req.Config.Entrypoint, req.Config.Cmd, req.Config.Env = s.Entrypoint, s.Cmd, s.Env
	req.Config.User, req.Config.WorkingDir, req.Config.StopSignal = s.User, s.WorkDir, s.StopSignal
	for _, f := range s.Files {
		source, target, ok := strings.Cut(f, ":")
		if !ok || source == "" || target == "" {
			return req, fmt.Errorf("file %q: want source:target", f)
		}
		req.Files[target] = source
	}
	for _, e := range s.Env {
		if i := strings.IndexByte(e, '='); i <= 0 {
			return req, fmt.Errorf("environment %q: want NAME=value", e)
		}
	}
	if len(s.Labels) > 0 {
		req.Config.Labels = map[string]string{}
	}
	for _, l := range s.Labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return req, fmt.Errorf("label %q: want name=value", l)
		}
		req.Config.Labels[key] = value
	}
	var err error
	if req.Config.ExposedPorts, err = ports(s.Expose); err != nil {
		return req, err
	}
	if len(s.Volumes) > 0 {
		req.Config.Volumes = map[string]struct{}{}
	}
	for _, v := range s.Volumes {
		if !strings.HasPrefix(v, "/") {
			return req, fmt.Errorf("volume %q: want an absolute path", v)
		}
		req.Config.Volumes[v] = struct{}{}
	}
	if s.Platform != "" {
		if req.Platform, err = images.ParsePlatform(s.Platform); err != nil {
			return req, err
		}
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		n, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return req, fmt.Errorf("SOURCE_DATE_EPOCH %q: want seconds", epoch)
		}
		req.Created = time.Unix(n, 0)
	}
	return req, nil
}

func ports(all []string) (map[string]struct{}, error) {
	if len(all) == 0 {
		return nil, nil
	}
	out := map[string]struct{}{}
	for _, p := range all {
		number, protocol, ok := strings.Cut(p, "/")
		if !ok {
			protocol = "tcp"
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil || n == 0 || protocol != "tcp" && protocol != "udp" && protocol != "sctp" {
			return nil, fmt.Errorf("port %q: want a number, and tcp, udp or sctp after a slash", p)
		}
		out[number+"/"+protocol] = struct{}{}
	}
	return out, nil
}
