//go:build linux

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"mvdan.cc/sh/v3/expand"
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
	runner, err := interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.Params(append([]string{"--"}, args...)...), interp.CallHandler(replace))
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

// replace makes exec what it is: the program takes the place of the shell, with its signals.
func replace(ctx context.Context, args []string) ([]string, error) {
	if len(args) < 2 || args[0] != "exec" {
		return args, nil
	}
	h := interp.HandlerCtx(ctx)
	path, err := interp.LookPathDir(h.Dir, h.Env, args[1])
	if err != nil {
		return nil, err
	}
	var env []string
	h.Env.Each(func(name string, v expand.Variable) bool {
		if v.Exported {
			env = append(env, name+"="+v.String())
		}
		return true
	})
	return nil, unix.Exec(path, args[1:], env)
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
