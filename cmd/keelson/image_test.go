package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/stretchr/testify/require"
)

// imageCLI runs "keelson image" on a store of the test.
type imageCLI struct {
	t    *testing.T
	root string
}

func (c imageCLI) run(in string, args ...string) (out string, err error) {
	cmd := command()
	var b bytes.Buffer
	cmd.SetIn(strings.NewReader(in))
	cmd.SetOut(&b)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(append([]string{"image", "--root", c.root}, args...))
	err = cmd.Execute()
	return b.String(), err
}

func (c imageCLI) ok(args ...string) string {
	c.t.Helper()
	out, err := c.run("", args...)
	require.NoError(c.t, err, args)
	return out
}

func TestImageCommands(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir()) // no credentials of who runs the test
	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer srv.Close()
	remote := strings.TrimPrefix(srv.URL, "http://") + "/team/app:v1"
	dir := t.TempDir()
	binary := filepath.Join(dir, "app")
	require.NoError(t, os.WriteFile(binary, []byte("#!/bin/true"), 0o600))
	c := imageCLI{t, filepath.Join(dir, "store")}

	require.Equal(t, "REPOSITORY   TAG   IMAGE ID   ADDED   SIZE   PINNED\n", c.ok("ls"))
	out := c.ok("build", "-t", "app:v1", "-t", "app:v2", "--cmd", "serve", "--cmd", "now", "-e", "A=b", "-l", "x=y", "--expose", "53/udp",
		"--expose", "80", "--user", "5", "--workdir", "/w", "--volume", "/data", "--platform", "linux/arm64", "--file", binary+":/etc/copy", binary)
	name, id, _ := strings.Cut(strings.TrimSpace(out), " ")
	require.Equal(t, "app:v1", name)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, id)
	rows := strings.Split(strings.TrimSpace(c.ok("ls")), "\n")
	require.Len(t, rows, 3)
	require.Equal(t, []string{"app", "v1", id[7:19], "now"}, strings.Fields(rows[1])[:4])
	require.Equal(t, id[7:19]+"\n", c.ok("ls", "-q"))

	var all []struct {
		ID       string
		RepoTags []string
		Pinned   bool
		Config   struct {
			Architecture string
			Created      string
			Config       struct {
				Entrypoint, Cmd, Env []string
				Labels               map[string]string
				ExposedPorts         map[string]struct{}
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(c.ok("inspect", "app:v2")), &all))
	require.Equal(t, id, all[0].ID)
	require.Equal(t, "arm64", all[0].Config.Architecture)
	require.Equal(t, "2001-09-09T01:46:40Z", all[0].Config.Created)
	require.Equal(t, []string{"/app"}, all[0].Config.Config.Entrypoint)
	require.Equal(t, []string{"serve", "now"}, all[0].Config.Config.Cmd)
	require.Equal(t, map[string]struct{}{"53/udp": {}, "80/tcp": {}}, all[0].Config.Config.ExposedPorts)

	// To a registry and back into another store.
	require.Contains(t, c.ok("push", "app:v1", remote), remote+" sha256:")
	other := imageCLI{t, filepath.Join(dir, "other")}
	require.Contains(t, other.ok("pull", "--platform", "linux/arm64", remote), id)
	require.Contains(t, other.ok("ls", "-o", "json"), remote)

	// Through archives: a file, standard output and input.
	file := filepath.Join(dir, "app.tar")
	require.Empty(t, c.ok("export", "-f", file, "app:v1"))
	third := imageCLI{t, filepath.Join(dir, "third")}
	require.Contains(t, third.ok("import", file), "app:v1 "+id)
	archive := c.ok("export", "--format", "docker", "app:v2")
	out, err := third.run(archive, "import", "-t", "other:v3", "-")
	require.NoError(t, err)
	require.Contains(t, out, id)

	c.ok("tag", "app:v1", "more:v1")
	c.ok("pin", "app:v1")
	require.NoError(t, json.Unmarshal([]byte(c.ok("ls", "-o", "json", "more:v1")), &all))
	require.True(t, all[0].Pinned)
	require.Equal(t, "Freed: 0 B\n", c.ok("gc", "--all"))
	c.ok("unpin", "app:v1")
	require.Contains(t, c.ok("rm", "app:v1"), "Untagged: app:v1\n")
	require.Contains(t, c.ok("gc", "--all"), "Deleted: "+id)
	require.Len(t, strings.Split(strings.TrimSpace(c.ok("ls")), "\n"), 1)
}

func TestImageCommandErrors(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	dir := t.TempDir()
	c := imageCLI{t, filepath.Join(dir, "store")}
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for _, tc := range []struct {
		text string
		args []string
	}{
		{"not found", []string{"rm", "none"}},
		{"not found", []string{"inspect", "none"}},
		{"not found", []string{"ls", "none"}},
		{"not found", []string{"tag", "none", "x"}},
		{"not found", []string{"export", "none"}},
		{"not found", []string{"push", "none"}},
		{"cannot reach the registry localhost:1", []string{"pull", "localhost:1/x"}},
		{"is no name of an image", []string{"pull", "UPPER"}},
		{"platform", []string{"pull", "--platform", "arm64", "localhost:1/x"}},
		{"output format", []string{"ls", "-o", "yaml"}},
		{"nothing to put in", []string{"build", "-t", "x"}},
		{"NAME=value", []string{"build", "-e", "A", file}},
		{"name=value", []string{"build", "-l", "=x", file}},
		{"port", []string{"build", "--expose", "99999", file}},
		{"port", []string{"build", "--expose", "80/http", file}},
		{"source:target", []string{"build", "--file", "x"}},
		{"absolute", []string{"build", "--volume", "x", file}},
		{"no such file", []string{"import", file + "x"}},
		{"neither an OCI layout", []string{"import", dir}},
		{"format", []string{"export", "--format", "zip", "x"}},
		{"no such file", []string{"--registries", file + "x", "ls"}},
		{"requires at least 1 arg", []string{"rm"}},
	} {
		_, err := c.run("", tc.args...)
		require.ErrorContains(t, err, tc.text, tc.args)
	}
}
