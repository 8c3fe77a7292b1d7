package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// forbidden calls in the packages that run under simulation, with what to use instead.
var forbidden = map[string]map[string]string{
	"os":           {"*": "internal/vfs"},
	"time":         {"Now": "internal/clock", "NewTimer": "internal/clock", "NewTicker": "internal/clock", "After": "internal/clock", "AfterFunc": "internal/clock", "Sleep": "internal/clock", "Since": "internal/clock"},
	"math/rand":    {"*": "a source that the caller passes"},
	"math/rand/v2": {"Int": "a source that the caller passes", "IntN": "a source that the caller passes", "Int64N": "a source that the caller passes", "N": "a source that the caller passes", "Uint64": "a source that the caller passes"},
}

// simulated packages reach time, disk and randomness through seams. mvcc/backend is bbolt, which opens real files.
var simulated = []string{"wal", "mvcc", "lease", "raftnode", "server/apply"}

var seamExceptions = []string{"mvcc/backend"}

func TestSeams(t *testing.T) {
	for _, file := range goFiles(t) {
		pkg := filepath.ToSlash(filepath.Dir(file))
		if strings.HasSuffix(file, "_test.go") || !within(pkg, simulated) || within(pkg, seamExceptions) {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join(root, file), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]map[string]string{}
		for _, imp := range f.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			if calls, ok := forbidden[path]; ok {
				name := path[strings.LastIndex(path, "/")+1:]
				if name == "v2" {
					name = "rand"
				}
				if imp.Name != nil {
					name = imp.Name.Name
				}
				names[name] = calls
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && id.Obj == nil {
				calls := names[id.Name]
				instead, bad := calls[sel.Sel.Name]
				if !bad {
					instead, bad = calls["*"]
				}
				if bad {
					t.Errorf("%s: %s.%s: use %s, so that the package can be simulated", fset.Position(call.Pos()), id.Name, sel.Sel.Name, instead)
				}
			}
			return true
		})
	}
}
