package ctl_test

import (
	"bytes"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/servertest"
)

// notYet are the commands of etcdctl that are not here.
var notYet = []string{"auth", "user", "role"}

var (
	commandLine = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +\S`)
	flagLine    = regexp.MustCompile(`(?m)^ +(?:-(\w), |    )--([a-z0-9-]+)(?: ([a-zA-Z0-9]+))?  .*?(?:\(default (\S+)\))?$`)
)

// help is what the help of a command says: subcommands, and flags with shorthand, type and default.
type help struct {
	commands []string
	flags    map[string]string
}

func parseHelp(text string) help {
	h := help{flags: map[string]string{}}
	commands, flags, _ := strings.Cut(text, "\nFlags:\n")
	if !strings.Contains(commands, "etcdctl [command]") && !strings.Contains(commands, "ommands") {
		commands = ""
	}
	for _, m := range commandLine.FindAllStringSubmatch(commands, -1) {
		if m[1] != "help" && m[1] != "etcdctl" && m[1] != "keelson" {
			h.commands = append(h.commands, m[1])
		}
	}
	for _, m := range flagLine.FindAllStringSubmatch(flags, -1) {
		h.flags[m[2]] = strings.Join([]string{m[1], m[3], m[4]}, " ")
	}
	slices.Sort(h.commands)
	return h
}

// TestCommandsOfEtcdctl compares all commands and their flags with those of etcdctl.
func TestCommandsOfEtcdctl(t *testing.T) {
	real := servertest.Oracle(t, "etcdctl")
	n := 0
	var compare func(path ...string)
	compare = func(path ...string) {
		n++
		args := append(path, "--help")
		if slices.Equal(path, []string{"options"}) {
			args = path
		}
		theirs, err := exec.Command(real, args...).Output()
		require.NoError(t, err)
		var out, errs bytes.Buffer
		require.Zero(t, execute(args, nil, &out, &errs), errs.String())
		want, got := parseHelp(string(theirs)), parseHelp(out.String())
		require.Equal(t, want.flags, got.flags, strings.Join(path, " "))
		for _, c := range want.commands {
			if len(path) == 0 && slices.Contains(notYet, c) {
				continue
			}
			require.Contains(t, got.commands, c, strings.Join(path, " "))
			compare(append(slices.Clone(path), c)...)
		}
		if len(path) > 0 {
			require.Equal(t, want.commands, got.commands, strings.Join(path, " "))
		}
	}
	compare()
	require.Greater(t, n, 40, "commands were compared")
}
