package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
)

// tlsKit are certificates of all sorts.
type tlsKit struct {
	ca      *certs.Authority
	server  certs.Pair
	clients map[string]*tls.Config
	crl     string
}

func newTLSKit(t *testing.T) *tlsKit {
	ca := certs.New(t)
	k := &tlsKit{ca: ca, server: ca.Issue("server", "server", "127.0.0.1", "localhost")}
	bob := ca.Issue("bob", "bob")
	k.crl = ca.Revoke("crl", bob)
	old := ca.TLS(ca.Issue("old", "alice"))
	old.MaxVersion = tls.VersionTLS12
	// A certificate that the server has not named an authority of is shown all the same.
	always := func(p certs.Pair) *tls.Config {
		cfg := ca.TLS()
		pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		require.NoError(t, err)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		return cfg
	}
	k.clients = map[string]*tls.Config{
		"none":       ca.TLS(),
		"alice":      ca.TLS(ca.Issue("alice", "alice", "alice.example", "127.0.0.1")),
		"server":     ca.TLS(k.server),
		"bob":        ca.TLS(bob),
		"elsewhere":  ca.TLS(ca.Issue("elsewhere", "alice", "alice.example", "10.1.2.3")),
		"stranger":   always(certs.New(t).Issue("stranger", "alice", "alice.example")),
		"late":       always(ca.Make("late", "alice", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })),
		"for server": always(ca.Make("half", "alice", nil, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] })),
		"old":        old,
	}
	return k
}

// flags are those of one side: "" or "peer-".
func (k *tlsKit) flags(side string, more ...string) []string {
	out := []string{"--" + side + "cert-file=" + k.server.Cert, "--" + side + "key-file=" + k.server.Key}
	for _, f := range more {
		out = append(out, "--"+side+f)
	}
	return out
}

// TestTLSVerdictsAreEtcds asks all ports of etcd and of Keelson, with the same flags, as clients of all sorts.
func TestTLSVerdictsAreEtcds(t *testing.T) {
	real := servertest.Oracle(t, "etcd")
	k := newTLSKit(t)
	for name, flags := range map[string][]string{
		"in a file": {
			"client-transport-security: {cert-file: " + k.server.Cert + ", key-file: " + k.server.Key + ", trusted-ca-file: " + k.ca.CA +
				", allowed-cn: [alice, bob], skip-client-san-verification: true}",
			"peer-transport-security: {cert-file: " + k.server.Cert + ", key-file: " + k.server.Key + ", trusted-ca-file: " + k.ca.CA +
				", client-cert-auth: true, allowed-hostname: [alice.example, localhost]}",
		},
		"names": append(k.flags("", "trusted-ca-file="+k.ca.CA, "client-cert-auth"),
			append(k.flags("peer-", "trusted-ca-file="+k.ca.CA, "cert-allowed-cn=alice,carol"), "--client-cert-allowed-hostname=alice.example")...),
		"revoked": append(k.flags("", "trusted-ca-file="+k.ca.CA),
			append(k.flags("peer-", "trusted-ca-file="+k.ca.CA, "crl-file="+k.crl, "skip-client-san-verification"), "--client-crl-file="+k.crl)...),
		"nothing asked": append(k.flags(""), append(k.flags("peer-", "cert-allowed-cn=alice"), "--tls-min-version=TLS1.3")...),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, got := k.verdicts(t, flags, real), k.verdicts(t, flags, "")
			require.Equal(t, want, got)
			for _, port := range []string{"client", "peer", "metrics"} { // or the comparison would be of little worth
				require.Contains(t, strings.Join(want, "\n"), port+" takes")
				require.Contains(t, strings.Join(want, "\n"), port+" refuses")
			}
		})
	}
}

// verdicts runs a member and says whom its ports take. Without a program it runs in this process. Flags may be lines of a
// configuration file instead.
func (k *tlsKit) verdicts(t *testing.T, flags []string, program string) (out []string) {
	metrics := servertest.FreeAddr(t)
	c := servertest.NewSecure(t, 1, k.clients["alice"], append(append(servertest.Quick(), flags...), "--listen-metrics-urls=https://"+metrics)...)
	m := c.Members[0]
	if !strings.HasPrefix(flags[0], "--") {
		m.Flags = slices.DeleteFunc(m.Flags, func(f string) bool { return slices.Contains(flags, f) })
		lines := flags
		for _, f := range c.Args(m) {
			lines = append(lines, strings.Replace(strings.TrimPrefix(f, "--"), "=", ": ", 1))
		}
		file := filepath.Join(t.TempDir(), "etcd.yaml")
		certs.Write(t, file, []byte(strings.Join(lines, "\n")))
		m.Flags = []string{"--config-file=" + file}
	}
	if program == "" {
		c.Run(m)
	} else {
		c.RunProgram(m, program)
	}
	c.WaitReady(m)
	for _, port := range [][2]string{{"client", "https://" + m.Client + "/health"}, {"metrics", "https://" + metrics + "/health"}, {"peer", m.PeerURL + "/version"}} {
		for _, who := range []string{"none", "alice", "server", "bob", "elsewhere", "stranger", "late", "for server", "old"} {
			verdict := "takes"
			if err := ask(k.clients[who], port[1]); err != nil {
				verdict = "refuses"
			}
			out = append(out, fmt.Sprint(port[0], " ", verdict, " ", who))
		}
	}
	c.Stop(m)
	return out
}

func ask(cfg *tls.Config, url string) error {
	tr := &http.Transport{TLSClientConfig: cfg}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// TestTLSMixed is a cluster of both kinds, asked by the real etcdctl.
func TestTLSMixed(t *testing.T) {
	real, ctl := servertest.Oracle(t, "etcd"), servertest.Oracle(t, "etcdctl")
	t.Parallel()
	k := newTLSKit(t)
	client := k.ca.Issue("client", "client")
	flags := append(k.flags("", "trusted-ca-file="+k.ca.CA, "client-cert-auth"), k.flags("peer-", "trusted-ca-file="+k.ca.CA, "client-cert-auth", "cert-allowed-cn=server")...)
	flags = append(append(servertest.Quick(), "--snapshot-count=30", "--snapshot-catchup-entries=5", "--strict-reconfig-check=false"), flags...)
	c := servertest.NewSecure(t, 3, k.ca.TLS(client), flags...)
	c.RunProgram(c.Members[0], real)
	c.Run(c.Members[1])
	c.Run(c.Members[2])
	c.WaitReady(c.Members...)
	run := func(m *member, args ...string) string {
		t.Helper()
		cmd := exec.Command(ctl, append([]string{"--endpoints=https://" + m.Client, "--cacert=" + k.ca.CA, "--cert=" + client.Cert, "--key=" + client.Key, "--command-timeout=60s", "--dial-timeout=60s"}, args...)...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}
	for i, m := range c.Members {
		require.Equal(t, "OK\n", run(m, "put", "k", m.Name))
		for _, other := range c.Members {
			require.Equal(t, "k\n"+m.Name+"\n", run(other, "get", "k"))
		}
		id := fmt.Sprint(100 + i)
		conn := c.Dial(m) // a follower asks the leader, whichever kind that is
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60, ID: int64(100 + i)})
		require.NoError(t, err, id)
		ttl, err := pb.NewLeaseClient(conn).LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: int64(100 + i)})
		require.NoError(t, err)
		require.Positive(t, ttl.TTL)
	}
	require.Contains(t, run(c.Members[1], "endpoint", "health", "--cluster"), "is healthy")
	require.Equal(t, 3, strings.Count(run(c.Members[2], "member", "list"), "started"))

	// A new member asks the others for the cluster, and gets its data from the leader as a snapshot.
	kv := pb.NewKVClient(c.Dial(c.Members[1]))
	for range 50 {
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("many"), Value: []byte("times")})
		require.NoError(t, err)
	}
	joiner := c.Add(flags...)
	run(c.Members[0], "member", "add", joiner.Name, "--peer-urls="+joiner.PeerURL)
	c.Run(joiner)
	c.WaitReady(joiner)
	require.Equal(t, "many\ntimes\n", run(joiner, "get", "many"))

	out, err := exec.Command(ctl, "--endpoints=https://"+c.Members[1].Client, "--cacert="+k.ca.CA, "--command-timeout=2s", "get", "k").CombinedOutput()
	require.Error(t, err, "without a certificate: %s", out)
}

// TestTLSRefusalsAreEtcds starts both with flags that contradict each other: neither starts.
func TestTLSRefusalsAreEtcds(t *testing.T) {
	real := servertest.Oracle(t, "etcd")
	k := newTLSKit(t)
	https := []string{"--listen-client-urls=https://127.0.0.1:0", "--advertise-client-urls=https://127.0.0.1:0"}
	peers := []string{"--listen-peer-urls=https://127.0.0.1:0"}
	own := k.flags("")
	for _, flags := range [][]string{
		https,
		peers,
		append(https, own[0]),
		append(peers, "--peer-key-file=/none", "--peer-cert-file=/none"),
		append(peers, k.flags("peer-", "client-cert-file="+k.server.Cert)...),
		append(peers, k.flags("peer-", "cert-allowed-cn=a", "cert-allowed-hostname=b")...),
		append(peers, k.flags("peer-", "trusted-ca-file=/none")...),
		k.flags("peer-", "cert-allowed-cn=a", "cert-allowed-hostname=b"),
		append(own, "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"),
		append(own, "--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
		append(own, "--tls-min-version=SSL3"),
		append(peers, k.flags("peer-")[0], k.flags("peer-")[1], "--cipher-suites=NONE"),
		{"--listen-client-http-urls=unixs:///tmp/none"},
		{"--listen-client-http-urls=http://127.0.0.1:0", "--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0"},
	} {
		flags = append([]string{"--data-dir=" + filepath.Join(t.TempDir(), "data"), "--listen-peer-urls=http://127.0.0.1:0",
			"--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:0"}, flags...)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, real, flags...).CombinedOutput()
		require.Error(t, err)
		require.NoError(t, ctx.Err(), "etcd has started with %v: %s", flags, out)
		cancel()
		cfg, err := config.Parse(flags, nil)
		if err == nil {
			_, err = server.Start(t.Context(), cfg, zap.NewNop())
		}
		require.Error(t, err, "%v", flags)
	}
}

// TestAccessIsEtcds compares which hosts and origins are answered over plain HTTP.
func TestAccessIsEtcds(t *testing.T) {
	real := servertest.Oracle(t, "etcd")
	for _, flags := range [][]string{nil, {"--cors=http://o:1,https://p:2", "--host-whitelist=a,b"}} {
		answers := func(program string) (out []string) {
			c := servertest.New(t, 1, append(servertest.Quick(), flags...)...)
			m := c.Members[0]
			if program == "" {
				c.Run(m)
			} else {
				c.RunProgram(m, program)
			}
			c.WaitReady(m)
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodPost} {
				for _, host := range []string{"a", "b:1", "c", ""} {
					for _, origin := range []string{"", "http://o:1", "http://other:1"} {
						r, err := http.NewRequest(method, "http://"+m.Client+"/health", nil)
						require.NoError(t, err)
						r.Host = host
						if origin != "" {
							r.Header.Set("Origin", origin)
						}
						resp, err := tr.RoundTrip(r)
						require.NoError(t, err)
						require.NoError(t, resp.Body.Close())
						line := fmt.Sprint(method, " ", host, " ", origin, " ", resp.StatusCode)
						for _, h := range []string{"Methods", "Origin", "Headers"} {
							line += " " + resp.Header.Get("Access-Control-Allow-"+h)
						}
						out = append(out, line)
					}
				}
			}
			c.Stop(m)
			return out
		}
		require.Equal(t, answers(real), answers(""))
	}
}
