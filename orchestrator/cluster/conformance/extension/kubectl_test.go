package extension

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// oneKubectl is held while kubectl runs: what it does when it fails, and how it warns, are variables of its package.
var oneKubectl sync.Mutex

// failure is how kubectl fails here, instead of ending the process.
type failure struct{ text string }

// kubectlFile is kubectl with a file.
func kubectlFile(t *testing.T, e *conformance.Env, text string, args ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return kubectl(t, e, append(args, "-f", file)...)
}

// kubectl runs the real kubectl, as a library, in a test's namespace. It returns what that wrote.
func kubectl(t *testing.T, e *conformance.Env, args ...string) (text string, err error) {
	t.Helper()
	oneKubectl.Lock()
	defer oneKubectl.Unlock()
	util.BehaviorOnFatal(func(text string, _ int) { panic(failure{text}) })
	defer util.DefaultBehaviorOnFatal()
	defer func() {
		switch p := recover().(type) {
		case nil:
		case failure:
			err = errors.New(p.text)
		default:
			panic(p)
		}
	}()
	var out, problems bytes.Buffer
	streams := genericiooptions.IOStreams{In: &bytes.Buffer{}, Out: &out, ErrOut: &problems}
	c := cmd.NewKubectlCommand(cmd.KubectlOptions{
		IOStreams: streams, Arguments: append([]string{"kubectl"}, args...), ConfigFlags: genericclioptions.NewConfigFlags(true),
	})
	c.SetArgs(append([]string{"--kubeconfig", e.Kubeconfig, "--namespace", e.NS, "--cache-dir", t.TempDir()}, args...))
	c.SetOut(&out)
	c.SetErr(&problems)
	if err := c.ExecuteContext(e.Ctx); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, problems.String())
	}
	return out.String(), nil
}
