package conformance

import (
	"flag"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/server/servertest"
)

var target = flag.String("target", "", "address of a fresh member to run the scripts against, instead of the targets of the tests")

// alone is how scripts begin that need a cluster of one.
const alone = "alone_"

// runAll runs every script, in order, against one fresh target.
func runAll(t *testing.T, addr string, members int) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
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
