package table

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite docs/conformance.md")

const root = "../../../.."

// suites are where behaviours are, seen from the root.
var suites = []string{"orchestrator/cluster/conformance/*/*_test.go", "peers/kubectl/*_test.go"}

// row is a line of the table: | name | held or open | file or reason |
var row = regexp.MustCompile(`^\| (.+) \| (held|open) \| (.*) \|$`)

// names is how many behaviours there are.
const names = 462

func TestTable(t *testing.T) {
	path := filepath.Join(root, "docs/conformance.md")
	held := holders(t)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.Split(string(b), "\n")
	seen := map[string]int{}
	for i, line := range lines {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		seen[m[1]]++
		want := line
		if by := held[m[1]]; by != nil {
			want = fmt.Sprintf("| %s | held | %s |", m[1], strings.Join(by, ", "))
		} else if m[2] == "held" {
			want = fmt.Sprintf("| %s | open |  |", m[1])
		}
		if *update {
			lines[i] = want
		} else if line != want {
			t.Errorf("docs/conformance.md is not up to date: run go test ./orchestrator/cluster/conformance/table -update\n got %s\nwant %s", line, want)
		}
	}
	for name, by := range held {
		if seen[name] == 0 {
			t.Errorf("%s has a behaviour that there is not: %q", by, name)
		}
	}
	total := 0
	for _, n := range seen {
		total += n
	}
	require.Equal(t, names, total, "names in the table")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644))
	}
}

// holders finds which files hold a name.
func holders(t *testing.T) map[string][]string {
	out := map[string][]string{}
	for _, pattern := range suites {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		for _, f := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			rel, err := filepath.Rel(root, f)
			require.NoError(t, err)
			for _, name := range entries(parsed) {
				if !slices.Contains(out[name], filepath.ToSlash(rel)) {
					out[name] = append(out[name], filepath.ToSlash(rel))
				}
			}
		}
	}
	return out
}

// entries are the keys of a file's literals of type Behaviours.
func entries(f *ast.File) []string {
	var names []string
	ast.Inspect(f, func(n ast.Node) bool {
		lit, ok := n.(*ast.CompositeLit)
		if !ok || !isBehaviours(lit.Type) {
			return true
		}
		for _, e := range lit.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.BasicLit); ok {
					if name, err := strconv.Unquote(key.Value); err == nil {
						names = append(names, name)
					}
				}
			}
		}
		return true
	})
	return names
}

func isBehaviours(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr:
		return e.Sel.Name == "Behaviours"
	case *ast.Ident:
		return e.Name == "behaviours"
	}
	return false
}
