package ctl_test

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestTLSFlags runs commands and etcdctl's with the same flags against a member with TLS.
func TestTLSFlags(t *testing.T) {
	real := servertest.Oracle(t, "etcdctl")
	ca := certs.New(t)
	server, client := ca.Issue("server", "server", "127.0.0.1"), ca.Issue("client", "client")
	c := servertest.NewSecure(t, 1, ca.TLS(client), append(servertest.Quick(),
		"--cert-file="+server.Cert, "--key-file="+server.Key, "--trusted-ca-file="+ca.CA, "--client-cert-auth", "--peer-auto-tls")...)
	m := c.Members[0]
	c.Run(m)
	c.WaitReady(m)
	names := strings.NewReplacer("ADDR", m.Client, "CERT", client.Cert, "KEY", client.Key, "CA", ca.CA)
	const all = "--cacert=CA --cert=CERT --key=KEY "
	for _, line := range []string{
		"--endpoints=ADDR " + all + "put a b",
		"--endpoints=https://ADDR " + all + "get a",
		"--endpoints=ADDR --insecure-skip-tls-verify --cert=CERT --key=KEY get a",
		"--endpoints=https://ADDR --insecure-transport=false " + all + "get a",
		"--endpoints=https://ADDR " + all + "endpoint health",
		"--endpoints=ADDR " + all + "endpoint health --cluster",
		"--endpoints=http://ADDR " + all + "get a",
		"--endpoints=ADDR get a",
		"--endpoints=https://ADDR get a",
		"--endpoints=ADDR --insecure-transport=false get a",
		"--endpoints=ADDR --cacert=CA get a",
		"--endpoints=ADDR --cacert=KEY --cert=CERT --key=KEY get a",
		"--endpoints=ADDR --cert=CERT get a",
		"--endpoints=ADDR --key=KEY get a",
		"--endpoints=ADDR --key= get a",
		"--endpoints=ADDR --cert=/none --key=KEY get a",
		"--endpoints=ADDR --cert=CERT --key=CERT get a",
		"--endpoints=ADDR --cacert=/none get a",
		"--discovery-srv=does-not-exist.invalid get a",
	} {
		args := strings.Fields(names.Replace(line))
		if !strings.Contains(line, all) || strings.Contains(line, "http://") {
			args = append([]string{"--command-timeout=500ms", "--dial-timeout=500ms"}, args...)
		} else {
			args = append([]string{"--command-timeout=60s", "--dial-timeout=60s"}, args...)
		}
		var out, errs bytes.Buffer
		cmd := exec.Command(real, args...)
		cmd.Stdout, cmd.Stderr = &out, &errs
		var status *exec.ExitError
		if err := cmd.Run(); err != nil && !errors.As(err, &status) {
			t.Fatal(err)
		}
		wantOut, wantErrs, want := shown("", out.String()), shown("2| ", errs.String()), cmd.ProcessState.ExitCode()
		out.Reset()
		errs.Reset()
		code := execute(args, strings.NewReader(""), &out, &errs)
		require.Equal(t, want, code, "%s: etcdctl said %s, ctl %s", line, wantErrs, errs.String())
		require.Equal(t, wantOut, shown("", out.String()), line)
		if got := shown("2| ", errs.String()); got != wantErrs {
			t.Errorf("%s\nwant %s\ngot  %s", line, wantErrs, got)
		}
	}
}
