package archtest

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// concurrent packages must say in their documentation who may call what from where.
var concurrent = []string{
	"wal", "mvcc", "mvcc/backend", "lease", "raftnode", "raftnode/transport", "server/apply", "client",
	"orchestrator/kinds", "orchestrator/objectstore", "orchestrator/apiserver", "orchestrator/apiserver/verbs", "orchestrator/controllers",
	"orchestrator/controllers/garbage", "orchestrator/scheduler", "orchestrator/scheduler/core", "orchestrator/hollow", "orchestrator/cluster",
}

func TestPackagesAreDocumented(t *testing.T) {
	docs := map[string]string{}
	for _, file := range goFiles(t) {
		pkg := filepath.ToSlash(filepath.Dir(file))
		if _, ok := docs[pkg]; !ok {
			docs[pkg] = ""
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			docs[pkg] += f.Doc.Text()
		}
	}
	for pkg, doc := range docs {
		if len(doc) < 40 {
			t.Errorf("package %s has no package comment: say what it is, its model and its invariants", pkg)
		}
	}
	for _, pkg := range concurrent {
		if doc, ok := docs[pkg]; ok && !strings.Contains(doc, "# Concurrency") {
			t.Errorf("package %s has no section \"# Concurrency\" in its documentation", pkg)
		}
	}
}
