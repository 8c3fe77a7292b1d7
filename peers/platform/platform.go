// Package platform runs the whole platform, bin/keelson up, as a process of its own on a free port of the loopback interface,
// for suites that work on it with clients of others.
package platform

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// patience bounds a start and a stop. It is generous: machines that run tests are busy.
const patience = 2 * time.Minute

// ready is the line that says that everything runs.
var ready = regexp.MustCompile(`ready: (https://\S+)`)

// Options say what is started.
type Options struct {
	// Dir is the data directory; it also gets the kubeconfig and the file log.
	Dir string
	// Port is where the API server listens; 0 is any free one.
	Port int
	// HollowNodes is the number of simulated nodes.
	HollowNodes int
	// Args are further arguments of keelson up.
	Args []string
}

// Platform is a running platform.
type Platform struct {
	*Process
	// URL is where the API server is, and Kubeconfig a file that says how to reach it as an administrator.
	URL, Kubeconfig string
}

// Start starts a platform and waits until everything runs. A directory in which one ran before goes on.
func Start(o Options) (*Platform, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	p := &Platform{Kubeconfig: filepath.Join(o.Dir, "kubeconfig")}
	url := make(chan string, 1)
	var once sync.Once
	var err error
	p.Process, err = Exec(filepath.Join(o.Dir, "log"), func(line string) {
		if m := ready.FindStringSubmatch(line); m != nil {
			once.Do(func() { url <- m[1] })
		}
	}, append([]string{"up", "--data-dir", o.Dir, "--kubeconfig", p.Kubeconfig,
		"--secure-port", strconv.Itoa(o.Port), "--hollow-nodes", strconv.Itoa(o.HollowNodes)}, o.Args...)...)
	if err != nil {
		return nil, err
	}
	select {
	case p.URL = <-url:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("platform: it ended before it was ready: %w; see %s", p.err, p.Log)
	case <-time.After(patience):
		return nil, errors.Join(fmt.Errorf("platform: not ready after %v; see %s", patience, p.Log), p.Kill())
	}
}

// ports is how many ports this process has taken.
var ports atomic.Uint32

// FreePort returns a port of the loopback interface that nobody listens on, and that this process has not had before. It is below
// those that the system gives to outgoing connections, so that it stays free while whoever owns it is down.
func FreePort() (int, error) {
	const first, count = 10_000, 22_000
	var err error
	for range 100 {
		port := first + int((uint32(os.Getpid())*613+ports.Add(1))%count)
		l, lerr := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if lerr == nil {
			return port, l.Close()
		}
		err = lerr
	}
	return 0, fmt.Errorf("platform: no free port: %w", err)
}
