package ctl_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client/ctl"
)

var record = flag.String("record", "", "path of the etcdctl to record the golden files with")

// printed are commands with what they print in all formats.
var printed = []struct {
	name    string
	stdin   string
	answers map[string][]any
	args    []string
}{
	{name: "get", args: []string{"get", "k", "--prefix"}},
	{name: "get-stream", args: []string{"get", "k", "--prefix", "--stream"}},
	{name: "get-values", args: []string{"get", "k", "--prefix", "--print-value-only"}},
	{name: "get-count", args: []string{"get", "k", "--prefix", "--count-only"}},
	{name: "get-nothing", args: []string{"get", "k"}, answers: bare()},
	{name: "put", args: []string{"put", "k", "v", "--prev-kv"}},
	{name: "put-new", args: []string{"put", "k"}, stdin: "v", answers: bare()},
	{name: "del", args: []string{"del", "k", "--prefix", "--prev-kv"}},
	{name: "del-nothing", args: []string{"del", "k"}, answers: bare()},
	{name: "txn", args: []string{"txn"}, stdin: "mod(\"a\") > \"1\"\n\nget k\nput k v\nput k w --prev-kv\ndel k --prev-kv\n\n\n"},
	{name: "txn-nothing", args: []string{"txn", "-i"}, stdin: "\n\n\n", answers: bare()},
	{name: "compaction", args: []string{"compaction", "5"}},
	{name: "watch", args: []string{"watch", "k", "--prefix", "--prev-kv", "--rev", "7"}},
	{name: "watch-refused", args: []string{"watch", "k"}, answers: bare()},
	{name: "lease-grant", args: []string{"lease", "grant", "60"}},
	{name: "lease-revoke", args: []string{"lease", "revoke", "32695410dcc0ca06"}},
	{name: "lease-timetolive", args: []string{"lease", "timetolive", "32695410dcc0ca06"}},
	{name: "lease-timetolive-keys", args: []string{"lease", "timetolive", "32695410dcc0ca06", "--keys"}},
	{name: "lease-timetolive-expired", args: []string{"lease", "timetolive", "32695410dcc0ca06", "--keys"}, answers: bare()},
	{name: "lease-list", args: []string{"lease", "list"}},
	{name: "lease-list-nothing", args: []string{"lease", "list"}, answers: bare()},
	{name: "lease-keep-alive-once", args: []string{"lease", "keep-alive", "--once", "32695410dcc0ca06"}},
	{name: "lease-keep-alive-expired", args: []string{"lease", "keep-alive", "32695410dcc0ca06"}, answers: bare()},
	{name: "member-list", args: []string{"member", "list"}},
	{name: "member-list-nothing", args: []string{"member", "list", "--consistency=s"}, answers: bare()},
	{name: "member-add", args: []string{"member", "add", "m2", "--peer-urls", "http://c:1", "--learner"}},
	{name: "member-add-voter", args: []string{"member", "add", "m1", "--peer-urls", "http://a:1,http://b:1"}, answers: bare()},
	{name: "member-remove", args: []string{"member", "remove", "c0ffee"}},
	{name: "member-update", args: []string{"member", "update", "c0ffee", "--peer-urls", "http://d:1"}},
	{name: "member-promote", args: []string{"member", "promote", "c0ffee"}},
	{name: "endpoint-health", args: []string{"endpoint", "health"}, answers: noAlarm()},
	{name: "endpoint-health-alarm", args: []string{"endpoint", "health"}},
	{name: "endpoint-status", args: []string{"endpoint", "status"}},
	{name: "endpoint-status-bare", args: []string{"endpoint", "status"}, answers: bare()},
	{name: "endpoint-hashkv", args: []string{"endpoint", "hashkv", "--cluster"}},
	{name: "endpoint-hashkv-failed", args: []string{"endpoint", "hashkv"}, answers: failing(pb.Maintenance_HashKV_FullMethodName, rpctypes.ErrGRPCFutureRev)},
	{name: "endpoint-status-failed", args: []string{"endpoint", "status"}, answers: failing(pb.Maintenance_Status_FullMethodName, rpctypes.ErrGRPCCorrupt)},
	{name: "alarm-list", args: []string{"alarm", "list"}},
	{name: "alarm-disarm", args: []string{"alarm", "disarm"}},
	{name: "move-leader", args: []string{"move-leader", "c0ffee"}},
	{name: "downgrade-validate", args: []string{"downgrade", "validate", "3.6"}},
	{name: "downgrade-enable", args: []string{"downgrade", "enable", "3.6"}},
	{name: "downgrade-cancel", args: []string{"downgrade", "cancel"}},
	{name: "auth-enable", args: []string{"auth", "enable"}},
	{name: "auth-disable", args: []string{"auth", "disable"}},
	{name: "auth-status", args: []string{"auth", "status"}},
	{name: "auth-status-disabled", args: []string{"auth", "status"}, answers: bare()},
	{name: "user-add", args: []string{"user", "add", "alice:secret"}},
	{name: "user-add-flag", args: []string{"user", "add", "a:b", "--new-user-password=secret"}},
	{name: "user-add-no-password", args: []string{"user", "add", "a:b", "--no-password"}},
	{name: "user-add-stdin", args: []string{"user", "add", "alice", "--interactive=false"}, stdin: "secret\n"},
	{name: "user-delete", args: []string{"user", "delete", "alice"}},
	{name: "user-get", args: []string{"user", "get", "alice"}},
	{name: "user-get-nothing", args: []string{"user", "get", "alice"}, answers: bare()},
	{name: "user-get-detail", args: []string{"user", "get", "alice", "--detail"}},
	{name: "user-list", args: []string{"user", "list"}},
	{name: "user-list-nothing", args: []string{"user", "list"}, answers: bare()},
	{name: "user-passwd", args: []string{"user", "passwd", "alice", "--interactive=false"}, stdin: "secret\n"},
	{name: "user-grant-role", args: []string{"user", "grant-role", "alice", "a"}},
	{name: "user-revoke-role", args: []string{"user", "revoke-role", "alice", "a"}},
	{name: "role-add", args: []string{"role", "add", "a"}},
	{name: "role-delete", args: []string{"role", "delete", "a"}},
	{name: "role-get", args: []string{"role", "get", "a"}},
	{name: "role-get-root", args: []string{"role", "get", "root"}, answers: bare()},
	{name: "role-get-nothing", args: []string{"role", "get", "a"}, answers: bare()},
	{name: "role-list", args: []string{"role", "list"}},
	{name: "role-list-nothing", args: []string{"role", "list"}, answers: bare()},
	{name: "role-grant-permission", args: []string{"role", "grant-permission", "a", "readwrite", "k", "l"}},
	{name: "role-revoke-permission", args: []string{"role", "revoke-permission", "a", "k"}},
	{name: "role-revoke-permission-range", args: []string{"role", "revoke-permission", "a", "k", "l"}},
	{name: "role-revoke-permission-from-key", args: []string{"role", "revoke-permission", "a", "k", "--from-key"}},
	{name: "as-user", args: []string{"put", "k", "v", "--user", "alice:secret"}},
}

// refused are commands that fail, or whose output has no format.
var refused = []struct {
	args  string // split at spaces
	stdin string
	err   error // of every KV and lease call
}{
	{args: "version"},
	{args: "get"}, {args: "get a --prefix --from-key"}, {args: "get a b --prefix"}, {args: "get a --keys-only --count-only"},
	{args: "get a --consistency=x"}, {args: "get a --order=x"}, {args: "get a --sort-by=x"},
	{args: "get a --min-create-rev=3 --max-create-rev=2"}, {args: "get a --min-mod-rev=3 --max-mod-rev=2"},
	{args: "get a -w yaml"}, {args: "get a --rev=9", err: rpctypes.ErrGRPCFutureRev},
	{args: "put"}, {args: "put a"}, {args: "put a b --ignore-value"}, {args: "put a b --lease=x"},
	{args: "put a b", err: rpctypes.ErrGRPCNoSpace}, {args: "put a b --lease=7", err: rpctypes.ErrGRPCLeaseNotFound},
	{args: "del"}, {args: "del a b c"}, {args: "del a --prefix --from-key"}, {args: "del a b --prefix"},
	{args: "txn x"}, {args: "txn"}, {args: "txn", stdin: "nonsense\n"}, {args: "txn", stdin: "foo(\"a\") = \"1\"\n"},
	{args: "txn", stdin: "mod(\"a\") = \"x\"\n"}, {args: "txn", stdin: "mod(\"a\") \"1\"\n"},
	{args: "txn", stdin: "\nnonsense\n"}, {args: "txn", stdin: "\nput a\n"}, {args: "txn", stdin: "\nget a --order=x\n"},
	{args: "compaction"}, {args: "compaction x"}, {args: "compaction 3", err: rpctypes.ErrGRPCCompacted},
	{args: "watch"}, {args: "watch --rev=1"}, {args: "watch a --"}, {args: "watch -- echo"}, {args: "watch a b --prefix"},
	{args: "watch -i"}, {args: "watch -i", stdin: "foo\n\nwatch\nwatch a b --prefix\n"}, {args: "watch -i", stdin: "watch a --x\n"},
	{args: "watch -i", stdin: "watch a --\n"},
	{args: "lease grant"}, {args: "lease grant x"}, {args: "lease grant 0", err: rpctypes.ErrGRPCLeaseTTLTooLarge},
	{args: "lease revoke"}, {args: "lease revoke x"}, {args: "lease revoke 7", err: rpctypes.ErrGRPCLeaseNotFound},
	{args: "lease timetolive"}, {args: "lease timetolive x"}, {args: "lease keep-alive"}, {args: "lease keep-alive x"},
	{args: "member add"}, {args: "member add a"}, {args: "member add a http://b HTTP://c"}, {args: "member add a --peer-urls=b"},
	{args: "member add a --peer-urls=http://b"}, {args: "member add a --peer-urls=http://b:1/c"},
	{args: "member remove"}, {args: "member remove x"}, {args: "member update 1"}, {args: "member update x"},
	{args: "member update 1 --peer-urls=b"}, {args: "member promote"}, {args: "member promote x"},
	{args: "alarm list x"}, {args: "alarm disarm x"}, {args: "defrag"}, {args: "defrag --cluster"},
	{args: "move-leader"}, {args: "move-leader x"},
	{args: "downgrade validate"}, {args: "downgrade validate a b"}, {args: "downgrade enable"},
	{args: "snapshot save"}, {args: "snapshot save snap"}, {args: "snapshot save nonexistent/snap"},
	{args: "snapshot save snap --endpoints=b"}, {args: "lock"}, {args: "elect"}, {args: "elect a"}, {args: "elect a b -l"},
	{args: "make-mirror"}, {args: "make-mirror a --dest-prefix=a --no-dest-prefix"},
	{args: "check perf --load=x"}, {args: "check datascale --load=x"}, {args: "--endpoints= get a"}, {args: "--cert= get a"},
	{args: "auth enable x"}, {args: "auth disable x"}, {args: "auth status x"}, {args: "user add"}, {args: "user add :x"},
	{args: "user delete"}, {args: "user get"}, {args: "user list x"}, {args: "user passwd"}, {args: "user grant-role a"},
	{args: "user revoke-role a"}, {args: "role add"}, {args: "role delete"}, {args: "role get"}, {args: "role list x"},
	{args: "role grant-permission a read"}, {args: "role grant-permission a reed b"}, {args: "role revoke-permission a"},
	{args: "role grant-permission a read b --prefix --from-key"}, {args: "role grant-permission a READ b c --prefix"},
	{args: "role grant-permission a read b c --from-key"}, {args: "role grant-permission a Write b --prefix"},
	{args: "role revoke-permission a b --prefix"}, {args: "auth enable", err: rpctypes.ErrGRPCRootUserNotExist},
	{args: "role get a --detail"}, {args: "user add a:b", err: rpctypes.ErrGRPCUserAlreadyExist},
	{args: "get a --user a:b", err: rpctypes.ErrGRPCAuthFailed}, {args: "get a --user a --password b"},
	{args: "unknown"}, {args: "mem li"}, {args: "ge a -w fields --hex"},
}

// TestGolden compares with what etcdctl 3.7.3 printed. The files are recorded with
//
//	go test ./client/ctl -run TestGolden -record $PWD/bin/peers/etcdctl
func TestGolden(t *testing.T) {
	dir, err := filepath.Abs("testdata")
	require.NoError(t, err)
	s := serve(t)
	for _, c := range printed {
		t.Run(c.name, func(t *testing.T) {
			s.set(c.answers)
			var got strings.Builder
			for _, format := range []string{"simple", "fields", "json", "protobuf", "table"} {
				for _, hex := range [][]string{nil, {"--hex"}} {
					args := append([]string{"-w", format}, hex...)
					got.WriteString(run(t, append(args, c.args...), c.stdin))
				}
			}
			compare(t, filepath.Join(dir, c.name+".golden"), got.String())
		})
	}
	t.Run("refused", func(t *testing.T) {
		var got strings.Builder
		for _, c := range refused {
			answers := map[string][]any{}
			if c.err != nil {
				for m := range cannedAnswers() {
					answers[m] = []any{c.err}
				}
			}
			s.set(answers)
			got.WriteString(run(t, strings.Fields(c.args), c.stdin))
		}
		compare(t, filepath.Join(dir, "refused.golden"), got.String())
	})
}

// compare checks the output against a file, or writes the file when recording.
func compare(t *testing.T, file, got string) {
	if *record != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// run executes a command, or etcdctl when recording, and returns everything that could be seen of it.
func run(t *testing.T, args []string, stdin string) string {
	t.Helper()
	all := append([]string{"--endpoints", endpoint}, args...)
	var out, errs bytes.Buffer
	var code int
	if *record != "" {
		code = runEtcdctl(t, all, stdin, &out, &errs)
	} else {
		code = execute(all, strings.NewReader(stdin), &out, &errs)
	}
	return fmt.Sprintf("$ %s\n%s%sexit %d\n\n", strings.Join(args, " "), shown("", out.String()), shown("2| ", errs.String()), code)
}

func runEtcdctl(t *testing.T, args []string, stdin string, out, errs io.Writer) int {
	cmd := exec.Command(*record, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), out, errs
	err := cmd.Run()
	var status *exec.ExitError
	if err != nil && !errors.As(err, &status) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// execute runs a command in this process.
func execute(args []string, in io.Reader, out, errs io.Writer) int {
	return executeAs(append([]string{"ctl"}, args...), in, out, errs)
}

// executeAs executes the program's main.
func executeAs(args []string, in io.Reader, out, errs io.Writer) int {
	cmd := &cobra.Command{Use: "keelson", SilenceErrors: true, SilenceUsage: true}
	cmd.AddCommand(ctl.Command())
	cmd.SetIn(in)
	cmd.SetOut(out)
	cmd.SetErr(errs)
	cmd.SetArgs(args)
	err := cmd.Execute()
	if err == nil {
		return 0
	}
	if err.Error() != "" {
		fmt.Fprintln(errs, "Error:", err)
	}
	return err.(interface{ ExitCode() int }).ExitCode()
}

// What is different each time, or is no interface: durations, log lines, the random spaces that protobuf messages
// are written with, and the Go types in one error.
var volatile = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?m)^\{"level".*\n`), ""},
	{regexp.MustCompile(`\b\d+(\.\d+)?(µs|ms|s)([\s",.]|$)`), "TIME$3"},
	{regexp.MustCompile(`(memberID:\d+) +`), "$1 "},
	{regexp.MustCompile(`(marshal unsupported for type).*`), "$1 ..."},
	{regexp.MustCompile(`─+`), "─"},
	{regexp.MustCompile(` +`), " "},
}

// shown makes output comparable: without what is volatile, and quoted where it is binary.
func shown(prefix, s string) string {
	if s == "" {
		return ""
	}
	for _, v := range volatile[:4] {
		s = v.re.ReplaceAllString(s, v.with)
	}
	if strings.Contains(s, "│") && strings.Contains(s, "TIME") { // columns are as wide as durations are long
		for _, v := range volatile[4:] {
			s = v.re.ReplaceAllString(s, v.with)
		}
	}
	var b strings.Builder
	for line := range strings.Lines(s) {
		if q := fmt.Sprintf("%+q", line); strings.Contains(q, `\x`) && !strings.Contains(line, `\x`) {
			line = q + "\n"
		}
		b.WriteString(prefix + line)
		if !strings.HasSuffix(line, "\n") {
			b.WriteString("(no newline)\n")
		}
	}
	return b.String()
}
