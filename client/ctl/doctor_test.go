package ctl_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/client/ctl/doctor"
	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/servertest"
)

// examine runs doctor and returns what it found, by check.
func examine(t *testing.T, timeout string, args ...string) (code int, found map[string][]doctor.Finding) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(append(args, "--command-timeout="+timeout, "doctor", "-w", "json", "--watch", "200ms"), nil, &out, &errs)
	var all struct {
		Level    doctor.Level
		Findings []doctor.Finding
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &all), errs.String())
	require.Equal(t, all.Level.Code(), code)
	found = map[string][]doctor.Finding{}
	for _, f := range all.Findings {
		found[f.Check] = append(found[f.Check], f)
	}
	return code, found
}

// TestDoctor examines a cluster by one of its endpoints, whole and with a member that is down. How fast the disk is here is not
// the test's matter.
func TestDoctor(t *testing.T) {
	c := servertest.Start(t, 3)
	_, found := examine(t, "5s", "--endpoints="+c.Members[0].Client)
	require.Equal(t, "3 of 3 answer", found["members"][0].Found)
	for _, check := range []string{"members", "leader", "alarms", "raft lag", "clocks", "fragmentation", "quota", "size of the cluster", "security", "watchers", "backup"} {
		require.Equal(t, doctor.OK, found[check][0].Level, found[check])
	}
	c.Kill(c.Members[2])
	code, found := examine(t, "1s", "--endpoints="+c.Members[0].Client)
	require.Equal(t, 2, code)
	require.Equal(t, doctor.Fail, found["members"][0].Level)
	require.Contains(t, found["members"][0].Member, c.Members[2].Client)

	var out, errs bytes.Buffer
	require.Equal(t, 2, execute([]string{"--endpoints=" + c.Members[0].Client, "--command-timeout=1s", "doctor", "--watch", "0s"}, nil, &out, &errs))
	require.Contains(t, out.String(), "does not answer")
	require.Contains(t, out.String(), "it means")
	require.Contains(t, out.String(), "to do")
	require.Empty(t, errs.String())
}

// TestDoctorOfEtcd examines a member of etcd with TLS, by its status and metrics.
func TestDoctorOfEtcd(t *testing.T) {
	ca := certs.New(t)
	pair := ca.Issue("server", "server", "127.0.0.1", "localhost")
	c := servertest.NewSecure(t, 1, ca.TLS(pair), "--cert-file="+pair.Cert, "--key-file="+pair.Key, "--trusted-ca-file="+ca.CA, "--client-cert-auth",
		"--peer-cert-file="+pair.Cert, "--peer-key-file="+pair.Key, "--peer-trusted-ca-file="+ca.CA, "--peer-client-cert-auth")
	m := c.Members[0]
	c.RunProgram(m, servertest.Oracle(t, "etcd"))
	c.WaitReady(m)
	code, found := examine(t, "5s", "--endpoints=https://"+m.Client, "--cacert="+ca.CA, "--cert="+pair.Cert, "--key="+pair.Key)
	require.NotZero(t, code)
	require.Equal(t, "1 voting member", found["size of the cluster"][0].Found)
	for _, check := range []string{"members", "leader", "versions", "raft lag", "clocks", "quota", "peers"} {
		require.Equal(t, doctor.OK, found[check][0].Level, found[check])
	}
	require.NotEqual(t, doctor.Unknown, found["log syncs"][0].Level)
	require.True(t, strings.Contains(found["certificates"][0].Found, "ends in"), found["certificates"])
	require.Equal(t, doctor.Unknown, found["security"][0].Level)
}

func TestDoctorRefuses(t *testing.T) {
	for _, args := range [][]string{{"doctor", "--watch", "-1s"}, {"doctor", "-w", "table"}, {"doctor", "more"}} {
		var out, errs bytes.Buffer
		require.NotZero(t, execute(args, nil, &out, &errs), args)
		require.Empty(t, out.String())
	}
}
