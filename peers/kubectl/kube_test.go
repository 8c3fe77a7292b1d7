package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keelson-io/keelson/peers/platform"
)

// up is the platform that all tests use, each in a namespace of its own.
var up *platform.Platform

func TestMain(m *testing.M) {
	os.Exit(platform.Main(m, platform.Options{HollowNodes: 3}, func(p *platform.Platform) { up = p }))
}

// patience bounds a command, and a wait. It is generous: machines that run tests are busy.
const patience = time.Minute

// kube is a user of kubectl.
type kube struct {
	t       *testing.T
	program []string
	env     []string
	// ns is a namespace of its own, and dir an empty directory, in which kubectl runs.
	ns, dir string
	// client reads objects past kubectl.
	client *kubernetes.Clientset
}

// newKube makes a user, and its namespace.
func newKube(t *testing.T) *kube {
	t.Helper()
	program, err := platform.Find("peers/kubectl", "make peers")
	if errors.Is(err, platform.ErrMissing) && os.Getenv("KEELSON_REQUIRE_BINARIES") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", up.Kubeconfig)
	require.NoError(t, err)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}) // nobody waits for it to be gone
	})
	// What was discovered is shared by all users, as it is in a home directory.
	cache := filepath.Join(filepath.Dir(up.Kubeconfig), "cache")
	return &kube{
		t: t, program: []string{program}, ns: ns.Name, dir: t.TempDir(), client: client,
		env: []string{"KUBECONFIG=" + up.Kubeconfig, "KUBECACHEDIR=" + cache, "HOME=" + filepath.Dir(up.Kubeconfig), "PATH=" + os.Getenv("PATH")},
	}
}

// run runs kubectl. line is split at spaces; what must not be split comes after it.
func (k *kube) run(stdin, line string, more ...string) (stdout, stderr string, code int) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	args := append(append(k.program[1:], "--namespace", k.ns), append(strings.Fields(line), more...)...)
	cmd := exec.CommandContext(ctx, k.program[0], args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = k.env, k.dir, strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(k.t, err)
	}
	require.NoError(k.t, ctx.Err(), "kubectl %s %v does not end: %s%s", line, more, out.String(), errs.String())
	return strings.TrimSpace(out.String()), strings.TrimSpace(errs.String()), cmd.ProcessState.ExitCode()
}

// ok runs what must succeed, and returns what it says.
func (k *kube) ok(line string, more ...string) string {
	k.t.Helper()
	return k.okInput("", line, more...)
}

// okInput is ok with a standard input.
func (k *kube) okInput(stdin, line string, more ...string) string {
	k.t.Helper()
	out, errs, code := k.run(stdin, line, more...)
	require.Zero(k.t, code, "kubectl %s %v: %s%s", line, more, out, errs)
	return out
}

// says runs what must succeed with these words.
func (k *kube) says(want, line string, more ...string) {
	k.t.Helper()
	require.Equal(k.t, want, k.ok(line, more...), "kubectl %s %v", line, more)
}

// fails runs what must fail with these words, on standard error.
func (k *kube) fails(want, line string, more ...string) {
	k.t.Helper()
	k.failsInput("", want, line, more...)
}

// failsInput is fails with a standard input.
func (k *kube) failsInput(stdin, want, line string, more ...string) {
	k.t.Helper()
	out, errs, code := k.run(stdin, line, more...)
	require.Equal(k.t, 1, code, "kubectl %s %v: %s%s", line, more, out, errs)
	require.Equal(k.t, want, errs, "kubectl %s %v", line, more)
}

// warns runs what must succeed with words on standard error.
func (k *kube) warns(want, line string, more ...string) {
	k.t.Helper()
	out, errs, code := k.run("", line, more...)
	require.Zero(k.t, code, "kubectl %s %v: %s%s", line, more, out, errs)
	require.Equal(k.t, want, errs, "kubectl %s %v", line, more)
}

// write writes a file into the directory of the user.
func (k *kube) write(name, text string) {
	k.t.Helper()
	require.NoError(k.t, os.MkdirAll(filepath.Dir(filepath.Join(k.dir, name)), 0o755))
	require.NoError(k.t, os.WriteFile(filepath.Join(k.dir, name), []byte(text), 0o755))
}

// eventually waits until kubectl says what is wanted.
func (k *kube) eventually(want, line string, more ...string) {
	k.t.Helper()
	require.EventuallyWithT(k.t, func(c *assert.CollectT) {
		out, errs, code := k.run("", line, more...)
		assert.Zero(c, code, "%s%s", out, errs)
		assert.Equal(c, want, out, "kubectl %s %v", line, more)
	}, patience, 200*time.Millisecond)
}

// matches runs what must succeed with words that match a pattern, all of them.
func (k *kube) matches(pattern, line string, more ...string) {
	k.t.Helper()
	require.Regexp(k.t, "^"+pattern+"$", k.ok(line, more...), "kubectl %s %v", line, more)
}

// holds runs what must succeed and say these words, in this order, whatever stands between them; spaces are any number.
func (k *kube) holds(line string, words ...string) string {
	k.t.Helper()
	out := k.ok(line)
	rest := squeeze(out)
	for _, w := range words {
		_, after, ok := strings.Cut(rest, squeeze(w))
		require.True(k.t, ok, "kubectl %s: no %q after what came before in:\n%s", line, w, out)
		rest = after
	}
	return out
}

var spaces = regexp.MustCompile(`[ \t]+`)

func squeeze(s string) string { return spaces.ReplaceAllString(s, " ") }

// cells are the words of a table, line by line; columns are parted by at least two spaces.
func cells(out string) (rows [][]string) {
	for line := range strings.Lines(out) {
		rows = append(rows, columns.Split(strings.TrimRight(line, " \n"), -1))
	}
	return rows
}

var columns = regexp.MustCompile(` {2,}`)
