//go:build linux

package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// tools are what the program can be, by name.
func tools() map[string]func(args []string) error {
	all := map[string]func([]string) error{}
	for _, part := range []map[string]func([]string) error{fileTools(), factTools(), netTools(), lifeTools()} {
		maps.Copy(all, part)
	}
	all["sh"] = shell
	all["help"] = func([]string) error {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			fmt.Println(name)
		}
		return nil
	}
	return all
}

// status is a tool's wish to exit with a certain code.
type status int

func (s status) Error() string { return "exit status " + strconv.Itoa(int(s)) }

func main() {
	all := tools()
	args := os.Args
	tool := all[filepath.Base(args[0])]
	if tool == nil && len(args) > 1 {
		args = args[1:]
		tool = all[args[0]]
	}
	if tool == nil {
		fmt.Fprintln(os.Stderr, "toolbox: there is no such tool:", args[0])
		os.Exit(127)
	}
	err := tool(args[1:])
	var code status
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		os.Exit(1)
	}
}
