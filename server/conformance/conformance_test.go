package conformance

import (
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/server/servertest"
)

var target = flag.String("target", "", "address of a fresh member to run the scripts against, instead of the targets of the tests")

var insecureOption = grpc.WithTransportCredentials(insecure.NewCredentials())

// alone is how scripts begin that need a cluster of one.
const alone = "alone_"

// runAll runs every script, in order, against one fresh target.
func runAll(t *testing.T, addr string, members int) {
	t.Helper()
	conn := dial(t, addr)
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		if members > 1 && strings.HasPrefix(filepath.Base(f), alone) {
			continue
		}
		t.Run(filepath.Base(f), func(t *testing.T) { NewRunner(conn, addr).RunFile(t, f) })
	}
}

// usersScript is run against a target of its own.
const usersScript = "testdata/users/users.txt"

// TestUsers runs the script about users and permissions: against one member, against each of three, and against the real
// etcd.
func TestUsers(t *testing.T) {
	oracle := servertest.New(t, 1, "--bcrypt-cost=4")
	oracle.RunProgram(oracle.Members[0], servertest.Oracle(t, "etcd"))
	oracle.WaitReady(oracle.Members[0])
	targets := map[string]string{"etcd": oracle.Members[0].Client, "one": servertest.Start(t, 1, "--bcrypt-cost=4").Members[0].Client}
	for i := range 3 {
		targets[fmt.Sprintf("three/%d", i)] = servertest.Start(t, 3, "--bcrypt-cost=4").Members[i].Client
	}
	if *target != "" {
		targets = map[string]string{"target": *target}
	}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		t.Run(name, func(t *testing.T) { NewRunner(dial(t, targets[name]), targets[name]).RunFile(t, usersScript) })
	}
}

func TestTarget(t *testing.T) {
	if *target == "" {
		t.Skip("needs -target")
	}
	runAll(t, *target, 1)
}

func TestKeelson(t *testing.T) {
	runAll(t, servertest.Start(t, 1).Members[0].Client, 1)
}

// TestKeelsonCluster runs the scripts against each member of three, so against the leader and two followers.
func TestKeelsonCluster(t *testing.T) {
	for i := range 3 {
		runAll(t, servertest.Start(t, 3).Members[i].Client, 3)
	}
}

// TestEtcd keeps the scripts honest: what they expect is what the real etcd answers.
func TestEtcd(t *testing.T) {
	c := servertest.New(t, 1)
	c.RunProgram(c.Members[0], servertest.Oracle(t, "etcd"))
	c.WaitReady(c.Members[0])
	runAll(t, c.Members[0].Client, 1)
}
