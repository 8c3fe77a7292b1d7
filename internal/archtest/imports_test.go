package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/keelson-io/keelson/"

// rule says what a package and those below it may import of this module.
type rule struct {
	pkg   string
	allow []string
	why   string
}

// rules are looked up by the longest matching prefix.
var rules = []rule{
	{"internal", []string{"internal"}, "internal packages are the ground floor"},
	{"api", nil, "messages depend on nothing"},
	{"wal", []string{"api", "internal"}, "the log knows nothing of what is in it"},
	{"mvcc", []string{"api", "internal"}, "mvcc knows neither log nor leases: server/apply joins them"},
	{"lease", []string{"api", "internal"}, "lease.Revoke returns keys, server/apply deletes them: no cycle with mvcc"},
	{"raftnode", []string{"wal", "api", "internal"}, "consensus moves bytes, it does not know commands"},
	{"server/apply", []string{"mvcc", "lease", "api", "internal", "server/alarm", "server/quota", "server/errdefs", "server/membership", "server/auth"}, "apply is deterministic: state in, state out"},
	{"server", []string{"mvcc", "lease", "raftnode", "wal", "api", "internal"}, "the server is no client of itself"},
	{"client", []string{"api", "internal/clock"}, "the client is linked into users' programs: it stays thin"},
	{"client/ctl", []string{"client", "api", "internal/clock", "internal/srv"}, "the tool is not linked into users' programs, but nearly as thin"},
	{"bench", []string{"client", "api"}, "workloads see what clients see"},
	{"orchestrator", []string{"internal"}, "controllers, scheduler, node and network reach the API only through client-go"},
	{"orchestrator/kinds", []string{"internal"}, "a kind is data"},
	{"orchestrator/objectstore", []string{"orchestrator/kinds", "client", "api", "internal"}, "the object store is a client of the store"},
	{"orchestrator/apiserver", []string{"orchestrator/kinds", "orchestrator/objectstore", "client", "api", "internal"}, "at most three hops lie between a verb and the store"},
	{"orchestrator/node", []string{"internal"}, "the agent reaches the API only through client-go, and its runtime only through CRI"},
	{"orchestrator/network", []string{"internal"}, "the network reaches the API only through client-go; the node asks for it through interfaces of its own"},
	{"orchestrator/cluster", []string{""}, "the cluster composes everything"},
	{"sim", []string{""}, "simulation composes everything"},
	{"cmd", []string{""}, "the binary composes everything"},
	{"packaging", []string{"server", "internal"}, "what is packaged is tried as a member"},
	{"examples", nil, "what users copy stands alone"},
}

func ruleFor(pkg string) *rule {
	var best *rule
	for i := range rules {
		r := &rules[i]
		if (pkg == r.pkg || strings.HasPrefix(pkg, r.pkg+"/")) && (best == nil || len(r.pkg) > len(best.pkg)) {
			best = r
		}
	}
	return best
}

func within(pkg string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		return f == "" || pkg == f || strings.HasPrefix(pkg, f+"/")
	})
}

func TestImportsPointDown(t *testing.T) {
	for _, file := range goFiles(t) {
		pkg := filepath.ToSlash(filepath.Dir(file))
		r := ruleFor(pkg)
		if r == nil {
			t.Errorf("%s: no import rule covers package %q; add one to internal/archtest and to the design", file, pkg)
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range parsed.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			dep, ours := strings.CutPrefix(path, module)
			own := strings.HasPrefix(dep, r.pkg+"/") || dep == r.pkg
			testing := strings.HasSuffix(file, "_test.go")
			switch {
			case !ours || own || within(dep, r.allow) || testing:
			case strings.HasPrefix(r.pkg, "server") && within(dep, []string{"server"}) && r.pkg == "server":
			default:
				t.Errorf("%s imports %s: %s may import %v only (%s)", file, dep, r.pkg, r.allow, r.why)
			}
		}
	}
}

// root is the module's folder, seen from this package.
const root = "../.."

// goFiles lists the Go files of the module, without generated ones and other modules.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			switch {
			case strings.HasPrefix(d.Name(), ".") && rel != ".", d.Name() == "testdata",
				rel == "bin", rel == "data", rel == "peers", rel == "tools":
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(rel, ".go") && !strings.HasSuffix(rel, ".pb.go") && !strings.HasSuffix(rel, ".pb.gw.go") {
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("found only %d Go files: the walk is broken", len(files))
	}
	return files
}
