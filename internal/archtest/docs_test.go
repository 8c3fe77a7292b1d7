package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestNamedTests finds every test that docs/etcd-compatibility.md names, as `package: Test`.
func TestNamedTests(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join(root, "docs/etcd-compatibility.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{} // the test files of a package, put together
	for _, file := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		tests[filepath.ToSlash(filepath.Dir(file))] += string(src)
	}
	named := regexp.MustCompile("`([a-z0-9/]+): (Test\\w+)`").FindAllStringSubmatch(string(doc), -1)
	if len(named) < 20 {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, n := range named {
		if !strings.Contains(tests[n[1]], "func "+n[2]+"(t *testing.T)") {
			t.Errorf("%s has no test %s", n[1], n[2])
		}
	}
}
