// Command cross type-checks a program of another module for platforms that it is not built for here, much faster than building it
// does: of what the program depends on outside of its module only declarations are read.
//
//	cross -C ../.. ./cmd/keelson darwin/arm64 linux/arm64
//
// # Concurrency
//
// It is a process of its own.
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

func main() {
	dir := flag.String("C", ".", "directory of the module")
	flag.Parse()
	if flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "cross [-C dir] package os/architecture...")
		os.Exit(2)
	}
	bad := 0
	for _, platform := range flag.Args()[1:] {
		problems, err := check(*dir, flag.Arg(0), platform)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for _, p := range problems {
			fmt.Printf("%s: %s\n", platform, p)
		}
		bad += len(problems)
	}
	if bad > 0 {
		os.Exit(1)
	}
}

// check type-checks a package with all that it depends on, and tells what is wrong in its module.
func check(dir, pkg, platform string) (problems []string, err error) {
	root, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	system, arch, _ := strings.Cut(platform, "/")
	loaded, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps | packages.NeedTypes | packages.NeedSyntax | packages.NeedModule,
		Dir:  root, Env: append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0"),
		ParseFile: func(set *token.FileSet, name string, text []byte) (*ast.File, error) {
			if strings.HasPrefix(name, root+string(filepath.Separator)) {
				return parser.ParseFile(set, name, text, parser.SkipObjectResolution)
			}
			file, err := parser.ParseFile(set, name, text, parser.SkipObjectResolution)
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok {
					f.Body = nil
				}
			}
			return file, err
		},
	}, pkg)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", platform, err)
	}
	packages.Visit(loaded, nil, func(p *packages.Package) {
		if p.Module == nil || !p.Module.Main {
			return // without bodies there are imports that nothing uses
		}
		for _, e := range p.Errors {
			problems = append(problems, e.Error())
		}
	})
	return problems, nil
}
