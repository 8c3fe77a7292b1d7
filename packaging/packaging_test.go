package packaging

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
)

func read(t *testing.T, file string) string {
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(data)
}

// pki runs the script that makes certificates.
func pki(t *testing.T, members ...string) string {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is missing")
	}
	dir := filepath.Join(t.TempDir(), "pki")
	for range 2 { // a second time changes nothing
		out, err := exec.Command("./certificates.sh", append([]string{dir}, members...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	return dir
}

// address is a host and port in a configuration.
var address = regexp.MustCompile(`//([0-9.]+:[0-9]+)`)

// start starts the members of configuration files in this process, at free addresses and with certificates of their own.
func start(t *testing.T, pki string, files ...string) (clients []string) {
	moved := map[string]string{}
	var servers []*server.Server
	for _, file := range files {
		text := read(t, "config/"+file+".yaml")
		text = address.ReplaceAllStringFunc(text, func(a string) string {
			key := a
			if strings.HasPrefix(a, "//127.") {
				key = file + a // each machine has its own
			}
			if moved[key] == "" {
				moved[key] = "//" + servertest.FreeAddr(t)
			}
			return moved[key]
		})
		text = strings.ReplaceAll(text, "/var/lib/keelson", filepath.Join(t.TempDir(), "data"))
		pair := filepath.Join(pki, "member")
		if len(files) > 1 {
			pair = filepath.Join(pki, file)
		}
		text = strings.ReplaceAll(text, "/etc/keelson/pki/member", pair)
		text = strings.ReplaceAll(text, "/etc/keelson/pki", pki)
		path := filepath.Join(t.TempDir(), "keelson.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))

		cfg, err := config.Parse([]string{"--config-file", path}, nil)
		require.NoError(t, err)
		srv, err := server.Start(t.Context(), cfg, zap.NewNop())
		require.NoError(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			require.NoError(t, srv.Stop(ctx))
		})
		servers = append(servers, srv)
		clients = append(clients, strings.TrimPrefix(cfg.Listen.AdvertiseClientURLs[0], "https://"))
	}
	for _, srv := range servers {
		select {
		case <-srv.Ready():
		case <-srv.Done():
			require.NoError(t, srv.Err())
		case <-time.After(time.Minute):
			require.FailNow(t, "a member is not ready in time")
		}
	}
	return clients
}

// dial connects with TLS; without a pair it shows no certificate.
func dial(t *testing.T, addr, pki, pair string) pb.KVClient {
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM([]byte(read(t, pki+"/ca.crt"))))
	conf := &tls.Config{RootCAs: pool}
	if pair != "" {
		cert, err := tls.LoadX509KeyPair(filepath.Join(pki, pair+".crt"), filepath.Join(pki, pair+".key"))
		require.NoError(t, err)
		conf.Certificates = []tls.Certificate{cert}
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return pb.NewKVClient(conn)
}

func TestConfigurations(t *testing.T) {
	for name, tc := range map[string]struct{ files, members []string }{
		"one":   {[]string{"one"}, []string{"keelson=127.0.0.1"}},
		"three": {[]string{"a", "b", "c"}, []string{"a=10.0.0.1", "b=10.0.0.2,b.example", "c=10.0.0.3"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := pki(t, tc.members...)
			clients := start(t, dir, tc.files...)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			_, err := dial(t, clients[0], dir, "client").Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
			require.NoError(t, err)
			for _, addr := range clients {
				got, err := dial(t, addr, dir, "client").Range(ctx, &pb.RangeRequest{Key: []byte("k")})
				require.NoError(t, err)
				require.Len(t, got.Kvs, 1)
			}
			_, err = dial(t, clients[0], dir, "").Range(ctx, &pb.RangeRequest{Key: []byte("k")})
			require.Error(t, err, "a client without a certificate was let in")
		})
	}
}

func TestUnit(t *testing.T) {
	unit := read(t, "systemd/keelson.service")
	command := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/keelson server (.*)$`).FindStringSubmatch(unit)
	require.NotNil(t, command)
	args := strings.Fields(strings.ReplaceAll(command[1], "/etc/keelson/keelson.yaml", "config/one.yaml"))
	_, err := config.Parse(args, nil)
	require.NoError(t, err)

	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is missing")
	}
	file := filepath.Join(t.TempDir(), "keelson.service")
	require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(unit, "/usr/local/bin/keelson", "/bin/true")), 0o600))
	out, err := exec.Command("systemd-analyze", "verify", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		require.NotContains(t, line, "keelson.service:", "systemd complains")
	}
}
