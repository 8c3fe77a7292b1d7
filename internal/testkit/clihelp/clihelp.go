// Package clihelp compares the commands and flags of a command line with those of the program that it stands for, by their
// help texts. Both are cobra's.
//
// # Concurrency
//
// Compare runs one command at a time.
package clihelp

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	commandLine = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*) +\S`)
	flagLine    = regexp.MustCompile(`(?m)^ +(?:-(\w), |    )--([a-z0-9-]+)(?: ([a-zA-Z0-9]+))?  .*?(?:\(default (\S+)\))?$`)
)

// help is what a text says: subcommands, and flags with shorthand, type and default.
type help struct {
	commands []string
	flags    map[string]string
}

// parse reads a text; examples in it begin with the name of the program.
func parse(text, program string) help {
	h := help{flags: map[string]string{}}
	usage, flags, _ := strings.Cut(text, "\nFlags:\n")
	if _, commands, ok := strings.Cut(usage, " [command]\n"); ok {
		for _, m := range commandLine.FindAllStringSubmatch(commands, -1) {
			if m[1] != "help" && m[1] != program {
				h.commands = append(h.commands, m[1])
			}
		}
	}
	for _, m := range flagLine.FindAllStringSubmatch(flags, -1) {
		h.flags[m[2]] = strings.Join([]string{m[1], m[3], m[4]}, " ")
	}
	slices.Sort(h.commands)
	return h
}

// Compare requires that run has the commands of the program real, each with the same flags. run returns what a command line
// prints. Compared are the command at a path, by default the program itself, and what is below it; the result is how many.
func Compare(t *testing.T, real string, run func(args ...string) string, at ...string) int {
	t.Helper()
	n := 0
	var visit func(path ...string)
	visit = func(path ...string) {
		n++
		args := append(slices.Clone(path), "--help")
		if slices.Equal(path, []string{"options"}) { // the command of etcdctl that shows the global flags
			args = path
		}
		text, err := exec.Command(real, args...).Output()
		require.NoError(t, err, path)
		program := filepath.Base(real)
		want, got := parse(string(text), program), parse(run(args...), program)
		require.Equal(t, want.flags, got.flags, "flags of %q", path)
		require.Equal(t, want.commands, got.commands, "commands of %q", path)
		for _, c := range want.commands {
			visit(append(slices.Clone(path), c)...)
		}
	}
	visit(at...)
	return n
}
