//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// shell is sh: -c and a script with its arguments, a file, or the standard input.
func shell(args []string) error {
	var source io.Reader = os.Stdin
	name := "sh"
	switch {
	case len(args) > 1 && args[0] == "-c":
		source, args = strings.NewReader(args[1]), args[2:]
		if len(args) > 0 {
			name, args = args[0], args[1:]
		}
	case len(args) > 0:
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		source, name, args = f, args[0], args[1:]
	}
	runner, err := interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.Params(append([]string{"--"}, args...)...))
	if err != nil {
		return err
	}
	if source == os.Stdin {
		return converse(runner)
	}
	script, err := syntax.NewParser().Parse(source, name)
	if err != nil {
		return err
	}
	return exited(runner.Run(context.Background(), script))
}

// converse runs each line as it comes.
func converse(runner *interp.Runner) error {
	var last error
	err := syntax.NewParser().Stmts(os.Stdin, func(s *syntax.Stmt) bool {
		last = runner.Run(context.Background(), s)
		return !runner.Exited()
	})
	if err != nil {
		return err
	}
	return exited(last)
}

// exited is the end of a script as the end of the shell.
func exited(err error) error {
	var code interp.ExitStatus
	if errors.As(err, &code) {
		return status(code)
	}
	return err
}
