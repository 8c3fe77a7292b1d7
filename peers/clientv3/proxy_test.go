package clientv3

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// proxies are the programs under test.
var proxies = map[string][]string{
	"keelson": {"../../bin/keelson", "grpc-proxy", "start"},
	"etcd":    {"../../bin/peers/etcd", "grpc-proxy", "start"},
}

// notByProxy are tests of what a proxy does not do: etcd's has no streams of ranges and loses the codes of errors.
var notByProxy = map[string][]string{"etcd": {"maintenance", "stream", "errors"}}

// TestProxy runs the suite through proxies, in front of members of Keelson.
func TestProxy(t *testing.T) {
	for name, program := range proxies {
		t.Run(name, func(t *testing.T) {
			members := start(t, servers["keelson"], 1)
			if _, err := os.Stat(program[0]); err != nil {
				t.Skipf("%s is not built", program[0])
			}
			addr := strings.TrimPrefix(freeURL(t), "http://")
			cmd := exec.Command(program[0], append(append([]string{}, program[1:]...), "--listen-addr="+addr, "--advertise-client-url="+addr,
				"--data-dir="+t.TempDir(), "--max-send-bytes=3000000", "--endpoints="+strings.Join(members.Endpoints(), ","))...)
			must(t, cmd.Start())
			t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
			c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: 20 * time.Second, Logger: zap.NewNop()})
			must(t, err)
			t.Cleanup(func() { _ = c.Close() })
			for test, fn := range suite {
				t.Run(test, func(t *testing.T) {
					for _, no := range notByProxy[name] {
						if no == test {
							t.Skip("not by this proxy")
						}
					}
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					fn(t, ctx, c)
				})
			}
			must(t, c.Sync(context.Background()))
			equal(t, fmt.Sprint([]string{addr}), fmt.Sprint(c.Endpoints()))
		})
	}
}
