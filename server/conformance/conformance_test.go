package conformance

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var target = flag.String("target", "", "address of a fresh member to run the scripts against, instead of the targets of the tests")

// runAll runs every script, in order, against one fresh target.
func runAll(t *testing.T, addr string) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) { NewRunner(conn).RunFile(t, f) })
	}
}

func TestTarget(t *testing.T) {
	if *target == "" {
		t.Skip("needs -target")
	}
	runAll(t, *target)
}
