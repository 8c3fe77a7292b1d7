package ctl_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/client/internal/fakestore"
)

func TestMain(m *testing.M) {
	cobra.EnablePrefixMatching = true
	goleak.VerifyTestMain(m)
}

// buffer is a bytes.Buffer that may be read while a command writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a command that runs until it is stopped or fed.
type running struct {
	t         *testing.T
	in        *io.PipeWriter
	out, errs *buffer
	code      chan int
}

// start starts a command on a cluster.
func start(t *testing.T, c *fakestore.Cluster, args ...string) *running {
	r, w := io.Pipe()
	p := &running{t: t, in: w, out: &buffer{}, errs: &buffer{}, code: make(chan int, 1)}
	go func() {
		p.code <- execute(append([]string{"--endpoints", strings.Join(c.Endpoints(), ",")}, args...), r, p.out, p.errs)
	}()
	t.Cleanup(func() { w.Close() })
	return p
}

// prints waits for the output to contain text.
func (p *running) prints(text string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return strings.Contains(p.out.String(), text) }, 5*time.Second, time.Millisecond,
		"want %q, have %q", text, p.out)
}

func (p *running) wait() int {
	p.t.Helper()
	select {
	case code := <-p.code:
		return code
	case <-time.After(10 * time.Second):
		p.t.Fatal("the command does not end; output: ", p.out)
		return 0
	}
}

// do runs a short command and returns its output.
func do(t *testing.T, c *fakestore.Cluster, args ...string) string {
	t.Helper()
	p := start(t, c, args...)
	p.in.Close()
	require.Zero(t, p.wait(), "%v: %v", args, p.errs)
	return p.out.String()
}

func TestKeys(t *testing.T) {
	c := fakestore.Start(t, 3)
	require.Equal(t, "OK\n", do(t, c, "put", "a", "1"))
	require.Equal(t, "OK\na\n1\n", do(t, c, "put", "a", "2", "--prev-kv"))
	do(t, c, "put", "b", "3")
	require.Equal(t, "a\n2\nb\n3\n", do(t, c, "get", "", "--prefix"))
	require.Equal(t, "b\n3\na\n2\n", do(t, c, "get", "a", "c", "--order=descend"))
	require.Equal(t, "a\n2\n", do(t, c, "get", "a", "--from-key", "--limit=1"))
	require.Equal(t, "1\n", do(t, c, "get", "a", "--rev=2", "--print-value-only"))
	require.Equal(t, "\\x61\n\\x32\n", do(t, c, "get", "a", "--hex", "--consistency=s"))
	require.Equal(t, "2\n", do(t, c, "del", "a", "c", "--range"))
	require.Empty(t, do(t, c, "get", "", "--prefix"))
}

func TestDeleteRangeHesitates(t *testing.T) {
	c := fakestore.Start(t, 1)
	began := time.Now()
	p := start(t, c, "del", "a", "b")
	require.Zero(t, p.wait())
	require.Greater(t, time.Since(began), 2*time.Second)
	require.Contains(t, p.errs.String(), `Keys between "a" and "b" will be deleted`)
}

func TestTxn(t *testing.T) {
	c := fakestore.Start(t, 1)
	c.Store.Put("a", "x y")
	p := start(t, c, "txn", "-i")
	fmt.Fprint(p.in, "value(\"a\") = \"x y\"\nlease(\"a\") = \"0\"\nver(\"a\") < \"2\"\n\n")
	p.prints("success requests")
	fmt.Fprint(p.in, "put b 'c \"d\"'\nput e \"f\\ng\"\nget b\ndel a --prev-kv\n\nput z z\n\n")
	require.Zero(t, p.wait())
	require.Equal(t, "compares:\nsuccess requests (get, put, del):\nfailure requests (get, put, del):\n"+
		"SUCCESS\n\nOK\n\nOK\n\nb\nc \"d\"\n\n1\na\nx y\n", p.out.String())
	require.Equal(t, "e\nf\ng\n", do(t, c, "get", "e"))
}

func TestWatchRunsCommands(t *testing.T) {
	c := fakestore.Start(t, 1)
	p := start(t, c, "watch", "a", "c", "--", "sh", "-c", "env | grep ^ETCD_WATCH | sort; test $ETCD_WATCH_REVISION -lt 4")
	require.Eventually(t, func() bool { return c.Calls("/etcdserverpb.Watch/Watch") > 0 }, 5*time.Second, time.Millisecond)
	for p.out.String() == "" { // until the watch is there
		c.Store.Put("b", "x\"y")
		time.Sleep(20 * time.Millisecond)
		if c.Store.Rev() > 3 {
			break
		}
	}
	for c.Store.Rev() < 5 {
		c.Store.Put("b", "last")
	}
	require.Equal(t, 1, p.wait())
	require.Contains(t, p.out.String(), "ETCD_WATCH_EVENT_TYPE=\"PUT\"\nETCD_WATCH_KEY=\"b\"\n")
	require.Regexp(t, `command \["sh" .*\] error \(exit status 1\)`, p.errs.String())
}

func TestWatchDialog(t *testing.T) {
	c := fakestore.Start(t, 2)
	c.Store.Put("a", "1") // revision 2
	p := start(t, c, "watch", "-i")
	fmt.Fprintln(p.in, "watch a --rev 2")
	p.prints("PUT\na\n1\n")
	fmt.Fprintln(p.in, "watch b c --prev-kv --rev 1 -- echo ran")
	fmt.Fprintln(p.in, "unknown")
	c.Store.Put("b", "2")
	p.prints("PUT\nb\n2\nran\n")
	fmt.Fprintln(p.in, "progress")
	p.prints("progress notify: 3\n")
	p.in.Close()
	require.Equal(t, 3, p.wait())
	require.Equal(t, "Invalid command unknown (only support watch)\nError: error reading watch request line: EOF\n", p.errs.String())
}

func TestWatchTargetFromEnvironment(t *testing.T) {
	c := fakestore.Start(t, 1)
	c.Store.Put("a", "1")
	t.Setenv("ETCDCTL_WATCH_KEY", "a")
	p := start(t, c, "watch", "--rev", "2", "--", "sh", "-c", "exit 1")
	require.Equal(t, 1, p.wait())
	require.Equal(t, "PUT\na\n1\n", p.out.String())
	require.NotContains(t, p.errs.String(), "unrecognized")

	p = start(t, c, "watch", "b")
	require.Equal(t, 128, p.wait())
	t.Setenv("ETCDCTL_WATCH_KEY", "")
	t.Setenv("ETCDCTL_WATCH_RANGE_END", "b")
	p = start(t, c, "watch")
	require.Equal(t, 128, p.wait())
	require.Contains(t, p.errs.String(), `ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END="b"`)
}

func TestLeases(t *testing.T) {
	c := fakestore.Start(t, 1)
	id := regexp.MustCompile(`[0-9a-f]{16}`).FindString(do(t, c, "lease", "grant", "3"))
	do(t, c, "put", "k", "v", "--lease", id)
	require.Contains(t, do(t, c, "lease", "timetolive", "--keys", id), "attached keys([k])")
	require.Equal(t, "found 1 leases\n"+id+"\n", do(t, c, "lease", "list"))
	p := start(t, c, "lease", "keep-alive", id)
	line := "lease " + id + " keepalived with TTL(3)\n"
	p.prints(line + line)
	require.Equal(t, "lease "+id+" revoked\n", do(t, c, "lease", "revoke", id))
	require.Zero(t, p.wait())
	require.True(t, strings.HasSuffix(p.out.String(), "lease "+id+" expired or revoked.\n"), p.out)
}

// interrupt sends this process a signal, which the command that runs in it catches.
func interrupt(t *testing.T) { require.NoError(t, syscall.Kill(os.Getpid(), syscall.SIGTERM)) }

func TestLock(t *testing.T) {
	c := fakestore.Start(t, 1)
	holder := start(t, c, "lock", "l")
	holder.prints("l/")
	waiter := start(t, c, "lock", "l", "sh", "--", "-c", "echo $ETCD_LOCK_KEY at $ETCD_LOCK_REV; exit 7")
	time.Sleep(50 * time.Millisecond)
	require.Empty(t, waiter.out.String())
	c.Store.Delete(strings.TrimSpace(holder.out.String())) // the holder loses it
	require.Equal(t, 7, waiter.wait())
	require.Regexp(t, `^l/[0-9a-f]+ at \d+\n$`, waiter.out.String())
	require.Equal(t, "Error: exit status 7\n", waiter.errs.String())
	interrupt(t)
	require.Zero(t, holder.wait())
	require.Equal(t, "found 0 leases\n", do(t, c, "lease", "list"), "the leases are given back")
}

func TestElect(t *testing.T) {
	c := fakestore.Start(t, 1)
	listener := start(t, c, "elect", "-l", "e")
	first := start(t, c, "elect", "e", "one")
	first.prints("one\n")
	listener.prints("one\n")
	second := start(t, c, "elect", "e", "two", "-w", "json")
	time.Sleep(50 * time.Millisecond)
	require.Empty(t, second.out.String())
	c.Store.Delete(strings.SplitN(first.out.String(), "\n", 2)[0])
	second.prints(`"value":"dHdv"`)
	listener.prints("two\n")
	interrupt(t)
	for _, p := range []*running{first, second, listener} {
		require.Zero(t, p.wait(), p.errs)
	}
	require.Empty(t, do(t, c, "get", "e/", "--prefix"))
}

func TestMakeMirror(t *testing.T) {
	src, dst := fakestore.Start(t, 1), fakestore.Start(t, 1)
	for i := range 5 {
		src.Store.Put(fmt.Sprint("m/", i), "v")
	}
	src.Store.Put("n", "no")
	p := start(t, src, "make-mirror", "--prefix", "m/", "--dest-prefix", "copy/", "--max-txn-ops", "2", dst.Endpoints()[0])
	arrived := func(keys int) func() bool {
		return func() bool {
			return strings.Contains(do(t, dst, "get", "copy/", "--prefix", "--count-only", "-w", "fields"), fmt.Sprintf("\"Count\" : %d\n", keys))
		}
	}
	require.Eventually(t, arrived(5), 5*time.Second, 10*time.Millisecond)
	txn := start(t, src, "txn")
	fmt.Fprint(txn.in, "\nput m/5 v\nput m/6 v\ndel m/0\nput m/7 v\nput n no\n\n\n")
	require.Zero(t, txn.wait())
	require.Eventually(t, arrived(7), 5*time.Second, 10*time.Millisecond)

	src.Members[0].BreakStreams(status.Error(codes.Unavailable, "gone")) // no reason to stop
	src.Store.Delete("m/1")
	require.Eventually(t, arrived(6), 5*time.Second, 10*time.Millisecond)
	dst.Members[0].SetFault(pb.KV_Txn_FullMethodName, &fakestore.Fault{Before: status.Error(codes.ResourceExhausted, "full")})
	src.Store.Put("m/8", "v")
	require.Equal(t, 1, p.wait())
	require.Contains(t, p.errs.String(), "full")
	require.Empty(t, do(t, dst, "get", "n"))
}

func TestSnapshotWithoutChecksum(t *testing.T) {
	t.Chdir(t.TempDir())
	c := fakestore.Start(t, 1)
	p := start(t, c, "snapshot", "save", "snap")
	require.Equal(t, 5, p.wait())
	require.Contains(t, p.errs.String(), "Error: sha256 checksum not found [bytes: 62]\n")
	left, err := os.ReadDir(".")
	require.NoError(t, err)
	require.Empty(t, left, "no half of a file stays behind")
}

func TestUnhealthyEndpoint(t *testing.T) {
	c := fakestore.Start(t, 2)
	c.Members[1].Stop()
	p := start(t, c, "--command-timeout", "200ms", "endpoint", "status")
	require.Equal(t, 1, p.wait())
	require.Contains(t, p.out.String(), c.Endpoints()[0]+", 1, 3.7.3, ")
	require.Contains(t, p.errs.String(), "Failed to get the status of endpoint "+c.Endpoints()[1]+" (context deadline exceeded)\n")
	require.NotContains(t, p.errs.String(), "Error:")
	p = start(t, c, "--command-timeout", "200ms", "endpoint", "health")
	require.Equal(t, 1, p.wait())
	require.Contains(t, p.errs.String(), c.Endpoints()[1]+" is unhealthy: failed to commit proposal: context deadline exceeded\n")
	require.Contains(t, p.errs.String(), "Error: unhealthy cluster\n")
}

func TestMoveLeaderNeedsTheLeader(t *testing.T) {
	c := fakestore.Start(t, 2) // member 1 leads
	require.Equal(t, "Leadership transferred from 1 to 2\n", do(t, c, "move-leader", "2"))
	p := start(t, c, "--endpoints", "", "move-leader", "2")
	require.Zero(t, p.wait())
	var out, errs bytes.Buffer
	require.Equal(t, 128, execute([]string{"--endpoints", c.Endpoints()[1], "move-leader", "2"}, nil, &out, &errs))
	require.Contains(t, errs.String(), "no leader endpoint given at ["+c.Endpoints()[1]+"]")
}

func TestUnreachable(t *testing.T) {
	var out, errs bytes.Buffer
	code := execute([]string{"--endpoints", "unix:/nonexistent", "--command-timeout", "100ms", "lease", "grant", "5"}, nil, &out, &errs)
	require.Equal(t, 1, code)
	require.Contains(t, errs.String(), "\nError: failed to grant lease (context deadline exceeded)\n")
	require.Contains(t, errs.String(), "no such file", "the log has the reason")
	errs.Reset()
	require.Equal(t, 2, execute([]string{"--endpoints", "", "get", "a"}, nil, &out, &errs))
	require.Equal(t, "Error: etcdclient: no available endpoints\n", errs.String())
}

func TestEnvironment(t *testing.T) {
	c := fakestore.Start(t, 1)
	c.Store.Put("a", "1")
	t.Setenv("ETCDCTL_API", "3")
	t.Setenv("ETCDCTL_ENDPOINTS", c.Endpoints()[0])
	t.Setenv("ETCDCTL_HEX", "true")
	t.Setenv("ETCDCTL_UNHEARD_OF", "x")
	t.Setenv("ETCDCTL_DIAL_TIMEOUT", "soon")
	var out, errs bytes.Buffer
	require.Zero(t, execute([]string{"get", "a"}, nil, &out, &errs))
	require.Equal(t, "\\x61\n\\x31\n", out.String())
	require.Contains(t, errs.String(), "ETCDCTL_UNHEARD_OF")
	require.Contains(t, errs.String(), "ETCDCTL_DIAL_TIMEOUT")
	require.NotContains(t, errs.String(), "ETCDCTL_API")
	errs.Reset()
	require.Equal(t, 1, execute([]string{"get", "a", "--hex"}, nil, &out, &errs))
	require.Contains(t, errs.String(), "ETCDCTL_HEX is set and --hex is given")
}

func TestPasswords(t *testing.T) {
	c := fakestore.Start(t, 1)
	do(t, c, "get", "a", "--user", "root:secret")
	do(t, c, "get", "a", "--user", "root", "--password", "secret")
	require.Equal(t, 2, start(t, c, "get", "a", "--user", "root:wrong").wait())
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	require.Zero(t, execute([]string{"put", "--help"}, nil, &out, &errs))
	require.Contains(t, out.String(), "keelson ctl put [options] <key> <value>")
	require.Contains(t, out.String(), `Use "keelson ctl options" for a list of global command-line options`)
	require.NotContains(t, out.String(), "--dial-timeout")
	out.Reset()
	require.Zero(t, execute([]string{"options"}, nil, &out, &errs))
	require.Contains(t, out.String(), "--dial-timeout")
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		out.Reset()
		require.Zero(t, execute([]string{"completion", shell}, nil, &out, &errs))
		require.Contains(t, out.String(), "etcdctl")
	}
	require.Empty(t, errs.String())
	out.Reset()
	require.Zero(t, executeAs([]string{"help", "ctl"}, nil, &out, &errs))
	require.Contains(t, out.String(), "Key-value commands")
}
