package archtest

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Bounds, in lines, fields and methods.
const (
	maxFuncLines = 70
	maxFileLines = 600
	maxFields    = 20
	maxMethods   = 8
)

func TestSizes(t *testing.T) {
	allowed, used := ratchet(t), map[string]bool{}
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for what, size := range oversized(t, file) {
			if limit, ok := allowed[what]; ok && size <= limit {
				used[what] = true
				if size < limit {
					t.Logf("%s shrank to %d: lower it in testdata/ratchet.txt", what, size)
				}
				continue
			}
			t.Errorf("%s is of size %d: split it (bounds: function %d lines, file %d lines, struct %d fields, interface %d methods)",
				what, size, maxFuncLines, maxFileLines, maxFields, maxMethods)
		}
	}
	for what := range allowed {
		if !used[what] {
			t.Errorf("testdata/ratchet.txt lists %q, which is no exception any more: remove it", what)
		}
	}
}

// oversized finds what passes its bound in a file: "kind file name" -> size.
func oversized(t *testing.T, file string) map[string]int {
	t.Helper()
	found := map[string]int{}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, filepath.Join(root, file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := func(n ast.Node) int { return fset.Position(n.End()).Line - fset.Position(n.Pos()).Line + 1 }
	note := func(kind, name string, size, bound int) {
		if size > bound {
			found[strings.TrimSpace(kind+" "+filepath.ToSlash(file)+" "+name)] = size
		}
	}
	note("file", "", fset.File(f.Pos()).LineCount(), maxFileLines)
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			note("func", n.Name.Name, lines(n), maxFuncLines)
		case *ast.TypeSpec:
			switch typ := n.Type.(type) {
			case *ast.StructType:
				note("struct", n.Name.Name, typ.Fields.NumFields(), maxFields)
			case *ast.InterfaceType:
				note("interface", n.Name.Name, typ.Methods.NumFields(), maxMethods)
			}
		}
		return true
	})
	return found
}

func ratchet(t *testing.T) map[string]int {
	t.Helper()
	f, err := os.Open("testdata/ratchet.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	allowed := map[string]int{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndex(line, " ")
		var size int
		if _, err := fmt.Sscan(line[i+1:], &size); err != nil {
			t.Fatalf("ratchet.txt: %q: %v", line, err)
		}
		allowed[line[:i]] = size
	}
	return allowed
}
